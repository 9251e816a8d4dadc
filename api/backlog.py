"""How long a full queue takes: an honest Retry-After."""

from __future__ import annotations

import math
import time

from api.submitter import Command, Submitter
from shared import keys
from shared.catalog import Ref
from shared.errors import QueueFull

_WINDOW_S = 10.0


class Backlog:
    """Remembers how many jobs of a version had ended at the last refusals, and so the recent rate."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter
        self._seen: dict[str, tuple[float, int]] = {}
        self._rate: dict[str, float] = {}

    async def queue_full(self, ref: Ref, jobs: int, size: int) -> QueueFull:
        """The error to raise: jobs waiting divided by the jobs that end a second; 1 while the rate is not known."""
        reply = await self._submitter.one(
            Command("HMGET", f"{keys.COUNTERS}{ref}", "succeeded", "failed", "canceled"),
        )
        rate = self._update(str(ref), sum(int(part or 0) for part in reply), time.monotonic())
        after = math.ceil(jobs / rate) if rate else 1
        return QueueFull(
            f"the queue of {ref} is full: {jobs} jobs with {size} bytes of input are waiting or running",
            retry_after_s=min(60, max(1, after)),
        )

    def _update(self, ref: str, ended: int, now: float) -> float:
        at, before = self._seen.setdefault(ref, (now, ended))
        if now - at >= 1.0:
            self._rate[ref] = max(0, ended - before) / (now - at)
            if now - at >= _WINDOW_S:
                self._seen[ref] = (now, ended)
        return self._rate.get(ref, 0.0)
