"""Which runner a job's units go to: the device's, or that of a version that only asks somebody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from worker.runner import Run, Runner
from worker.shelf import Place, Standing
from worker.work import Unit, Work


class Runners:
    """Any thread. `make` makes a runner; what else is given is for the device's."""

    def __init__(self, make: Callable[..., Runner], **device: Any) -> None:
        self._make = make
        self._device = make(**device)
        self._callers: dict[Place, Runner] = {}
        self._lock = threading.Lock()
        self._stopped = False

    def start(self) -> None:
        """Once."""
        self._device.start()

    def offer(self, work: Work) -> bool:
        """As of the device's runner."""
        return self._device.offer(work)

    def put(self, units: list[Unit]) -> None:
        """Of one job: they wait for their turn from now on."""
        self._of(units[0].work).put(units)

    def drop(self, work: Work) -> None:
        """Forget what waits of a job that is no longer ours."""
        for runner in self._all():
            runner.drop(work)

    def waiting(self) -> int:
        """How many units wait."""
        return sum(runner.waiting() for runner in self._all())

    def on_device(self) -> list[Run]:
        """What is on the device now, the oldest first."""
        return self._device.runs()

    def calls(self) -> Iterator[tuple[Runner, Run]]:
        """What others were asked, and have not answered."""
        for runner in self._all()[1:]:
            for run in runner.runs():
                yield runner, run

    @property
    def device_lost(self) -> str:
        """Why the device is gone; empty when all is well."""
        return next((runner.device_lost for runner in self._all() if runner.device_lost), "")

    def tidy(self) -> None:
        """Versions have come or gone: those that are not here need no threads."""
        with self._lock:
            gone = [place for place in self._callers if place.standing not in (Standing.READY, Standing.DRAINING)]
            idle = [self._callers.pop(place) for place in gone]
        for runner in idle:
            runner.close()

    def stop(self, timeout: float) -> bool:
        """Take nothing more, finish what is under way; False if it took longer than `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._lock:
            self._stopped = True
        runners = self._all()
        for runner in runners:
            runner.close()
        ended = [runner.join(max(0.0, end - time.monotonic())) for runner in runners]
        return all(ended)

    def _all(self) -> list[Runner]:
        with self._lock:
            return [self._device, *self._callers.values()]

    def _of(self, work: Work) -> Runner:
        model, place = work.model, work.place
        if model is None or place is None or not model.concurrency:
            return self._device
        with self._lock:
            runner = self._callers.get(place)
            if runner is None:
                runner = self._callers[place] = self._make(name=f"calls {place.ref}", threads=model.concurrency)
                if self._stopped:
                    runner.close()  # what comes now waits, and is given back with the rest
                else:
                    runner.start()
            return runner
