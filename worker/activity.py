"""What this worker did in the last seconds, for its sign of life: Prometheus has the history."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class _Sum:
    """Since the start of the process."""

    at: float
    busy_s: float
    batches: int
    items: int
    jobs: int


class Activity:
    """`ran` on any thread, `ended` on the finish thread, `told` on the presence thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._busy_s, self._batches, self._items, self._jobs = 0.0, 0, 0, 0
        self._seen: deque[_Sum] = deque([_Sum(clock(), 0.0, 0, 0, 0)])

    def ran(self, seconds: float, items: int) -> None:
        """A batch has run, and was so long on the device."""
        with self._lock:
            self._busy_s += seconds
            self._batches += 1
            self._items += items

    def ended(self) -> None:
        """This worker has written a job's outcome."""
        self._jobs += 1

    def told(self, busy_since: float | None) -> dict[str, Any]:
        """Of the time since the last look that is `WINDOW_S` ago, or since the first: `busy`, the share with a batch on
        the device (one that is there now since `busy_since`, by this clock, counts), `jobs_per_s`, and `batch_size`,
        items of a batch on average (None: there was none)."""
        now = self._clock()
        busy_s = self._busy_s + (0.0 if busy_since is None else now - busy_since)
        seen = _Sum(now, busy_s, self._batches, self._items, self._jobs)
        while len(self._seen) > 1 and now - self._seen[1].at >= WINDOW_S:
            self._seen.popleft()
        first = self._seen[0]
        self._seen.append(seen)
        passed, batches = max(now - first.at, 1e-3), seen.batches - first.batches
        return {
            "busy": round(min(1.0, max(0.0, (seen.busy_s - first.busy_s) / passed)), 3),
            "jobs_per_s": round((seen.jobs - first.jobs) / passed, 2),
            "batch_size": round((seen.items - first.items) / batches, 1) if batches else None,
        }
