"""The messages this worker holds: filed as unacked in Redis under its process id and a lease, not yet finished.

One object a process, whatever connections come and go: a lost connection does not end the work in hand, so nothing is
given back for it and nothing runs twice. Any thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable


class Holdings:
    """Delivery tag -> the list it came from. `process`: the worker process's own id. `limit(list)`: how many of one
    list may be held at once, so that a flood of one priority or model never takes the room of another."""

    def __init__(self, process: str, limit: Callable[[str], int]) -> None:
        self.process = process
        self._limit = limit
        self._lock = threading.Lock()
        self._lists: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._closed = False
        # What was said of held messages, whatever channel it was said to; a channel that lives flushes it.
        self.acked: list[str] = []
        self.rejected: list[str] = []
        self.requeued: list[str] = []

    def hold(self, tag: str, list_name: str) -> bool:
        """False when the tag is held already (a redelivery of what we are working on)."""
        with self._lock:
            if tag in self._lists:
                return False
            self._lists[tag] = list_name
            self._counts[list_name] += 1
            return True

    def release(self, tag: str) -> bool:
        """False when it was not held."""
        with self._lock:
            list_name = self._lists.pop(tag, None)
            if list_name is None:
                return False
            self._counts[list_name] -= 1
            return True

    def ack(self, tag: str) -> None:
        """It needs no work any more. What is not held is left as it is, here and below."""
        if self.release(tag):
            self.acked.append(tag)

    def reject(self, tag: str) -> None:
        """Nobody can work on it: to the dead letters."""
        if self.release(tag):
            self.rejected.append(tag)

    def requeue(self, tag: str) -> None:
        """Back to its list."""
        if self.release(tag):
            self.requeued.append(tag)

    def room(self, lists: list[str]) -> list[int]:
        """For each list how many more may be taken."""
        with self._lock:
            if self._closed:
                return [0] * len(lists)
            return [max(0, self._limit(name) - self._counts[name]) for name in lists]

    def close(self) -> None:
        """Take nothing more: the worker is stopping."""
        with self._lock:
            self._closed = True

    def tags(self) -> list[str]:
        """All held, oldest first."""
        with self._lock:
            return list(self._lists)

    def __len__(self) -> int:
        """How many are held."""
        return len(self._lists)
