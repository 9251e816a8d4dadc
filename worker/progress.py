"""How far jobs are, told while they run: by their handler, and by those of their items that have ended.

Who tells only leaves a note in memory; a thread of its own sends what is new, all jobs in one round trip, and then not
for `EVERY_S`. Nothing hangs on it: what Redis does not take is not sent again, the next note is.
"""

from __future__ import annotations

import math
import threading
import time

import orjson
import redis

from shared import scripts
from shared.logs import Event, get_logger
from shared.scripts_jobs import progress
from worker.handler import OnProgress
from worker.work import Unit, Work

logger = get_logger("worker")

EVERY_S = 0.5
_LONGEST = 500  # characters of a message


class ProgressTeller:
    """`changed` and what `listener` makes from any thread."""

    def __init__(self, client: redis.Redis, process: str) -> None:
        self._client, self._process = client, process
        self._changed: dict[Work, None] = {}
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="progress", daemon=True)

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def changed(self, work: Work) -> None:
        """Something of it is further than it was."""
        self._changed[work] = None
        self._wake.set()

    def listener(self, units: list[Unit]) -> OnProgress:
        """For a handler that has `units` as its batch. A position that is none, and what is no number, is not heard."""

        def hear(position: int, fraction: float | None, message: str | None) -> None:
            if not 0 <= position < len(units):
                return
            unit = units[position]
            work = unit.work
            if isinstance(fraction, int | float) and math.isfinite(fraction):
                work.items[unit.item].begun[unit.chunk] = min(1.0, max(0.0, fraction))
            if isinstance(message, str):
                work.message = message[:_LONGEST]
            self.changed(work)

        return hear

    def _loop(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            try:
                self._send()
            except redis.RedisError as error:
                logger.debug(Event.REDIS_LOST, step="progress", error=error)
            except Exception as error:
                logger.error(Event.TASK_FAILED, exc_info=error, task="progress")
            time.sleep(EVERY_S)

    def _send(self) -> None:
        calls = []
        for _ in range(len(self._changed)):
            work = self._changed.popitem()[0]
            if not work.ended and (told := _further(work)) != work.told:
                work.told = told
                text = orjson.dumps({"fraction": told[0], "message": told[1]})
                calls.append(progress(work.job_id, text, process=self._process))
        if calls:
            scripts.run(self._client, calls)


def _further(work: Work) -> tuple[float | None, str | None]:
    """Of a batch that is halved and run again no step back is told."""
    before, now = work.told[0], work.fraction
    if now is not None:
        now = round(max(now, before or 0.0), 4)
    return now, work.message
