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
    list may be held at once, so that a flood of one priority or model never takes the room of another; -1 where nothing
    is taken, and `on_waiting` is told of the list when messages wait in it."""

    def __init__(
        self,
        process: str,
        limit: Callable[[str], int],
        *,
        on_waiting: Callable[[str], None] = lambda _: None,
        on_etag: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.process = process
        self.on_waiting = on_waiting
        self.on_etag = on_etag  # of the registry, as seen with each drain
        self._limit = limit
        self._lock = threading.Lock()
        self._lists: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._closed = False
        self.changed = False  # the limits have: look whether there is more to take
        # What was said of held messages, whatever channel it was said to; a channel that lives flushes it.
        self.acked: list[str] = []
        self.rejected: list[str | bytes] = []
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

    def refuse(self, tag: bytes) -> None:
        """Likewise, of a message that has just been taken and cannot be read; its tag may be no text."""
        self.rejected.append(tag)

    def requeue(self, tag: str) -> None:
        """Back to its list."""
        if self.release(tag):
            self.requeued.append(tag)

    def room(self, lists: list[str]) -> list[int]:
        """For each list how many more may be taken; -1 as the limit says."""
        with self._lock:
            if self._closed:
                return [0] * len(lists)
            limits = [(name, self._limit(name)) for name in lists]
            return [limit if limit < 0 else max(0, limit - self._counts[name]) for name, limit in limits]

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
