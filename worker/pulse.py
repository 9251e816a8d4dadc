"""What `python -m worker healthcheck` looks at: the health file, renewed as long as the device and the threads that
watch over it do their work. Not as long as Redis answers: a worker keeps what it has while Redis is away."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from shared import health
from shared.logs import Event, get_logger
from worker.vital import vital_thread

logger = get_logger("worker")


class Pulse:
    """`mark` from any thread, `start` when the worker is ready."""

    def __init__(self, path: Path, limit_s: float, healthy: Callable[[], bool]) -> None:
        self._path, self._limit_s, self._healthy = path, limit_s, healthy
        self._pid, self._started = os.getpid(), health.started_of(os.getpid())
        self._marks: dict[str, float] = {}
        self._writable = True
        self._stop = threading.Event()
        self._thread = vital_thread("pulse", self._loop)

    def mark(self, part: str, allow_s: float = 0.0) -> None:
        """`part` does its work, and will say so again before the limit is over; `allow_s` later where it is about to
        wait for Redis. A part that has never said so is not waited for."""
        self._marks[part] = time.monotonic() + allow_s

    def start(self) -> None:
        """The file is there when this returns."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """The worker is leaving: nobody need look any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._path.unlink(missing_ok=True)

    def _loop(self) -> None:
        while not self._stop.wait(self._limit_s / 10):
            self._beat()

    def _beat(self) -> None:
        if not self._healthy():
            return
        at = min([time.monotonic(), *self._marks.values()])
        try:
            health.write(self._path, health.Sign(self._pid, self._started, at, self._limit_s))
        except OSError as error:
            if self._writable:
                logger.error(Event.HEALTH_FILE_FAILED, path=str(self._path), error=error.strerror)
            self._writable = False
