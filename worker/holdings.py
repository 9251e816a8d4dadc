"""The messages this worker holds: filed as unacked in Redis under its process id and a lease, not yet finished.

One object a process, whatever connections come and go: a lost connection does not end the work in hand, so nothing is
given back for it and nothing runs twice. Any thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from shared.scripts import Verdict

EXTRAS = 4  # jobs of one list that are held though their items have no room


@dataclass(slots=True, frozen=True)
class Started:
    """A job that the step which took its message has started: what a claim would have said of it, and when (monotonic)
    that step was asked for."""

    verdict: Verdict
    at: float


@dataclass(slots=True, frozen=True)
class _Held:
    list_name: str
    items: int
    extra: bool
    started: Started | None


class Holdings:
    """Delivery tag -> the list it came from, and its items. `process`: the worker process's own id. `limit(list)`: how
    many items of one list may be held at once, so that a flood of one priority or model takes no room of another's,
    and lists of many items do not all lie here while other workers have nothing to do; -1 where nothing is taken, and
    `on_waiting` is told of the list when messages wait in it. `starts(list)`: whether a job of it may start in the step
    that takes it, where nothing else is here."""

    def __init__(
        self,
        process: str,
        limit: Callable[[str], int],
        *,
        starts: Callable[[str], bool] = lambda _: False,
        on_waiting: Callable[[str], None] = lambda _: None,
        on_etag: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.process = process
        self.on_waiting = on_waiting
        self.on_etag = on_etag  # of the registry, as seen with each drain
        self._limit, self._starts = limit, starts
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._items: Counter[str] = Counter()  # by list
        self._jobs: Counter[str] = Counter()
        self._extras: Counter[str] = Counter()
        self._one_more: set[str] = set()  # lists of which one job may be taken though there is no room
        self._closed = False
        self.changed = False  # the limits have: look whether there is more to take
        self.wake_on_room = False  # messages may wait for it: what makes some is to wake who takes them
        # What was said of held messages, whatever channel it was said to; a channel that lives flushes it.
        self.acked: list[str] = []
        self.rejected: list[str | bytes] = []
        self.requeued: list[str] = []

    def hold(self, tag: str, list_name: str, items: int = 1, *, started: Started | None = None) -> bool:
        """False when the tag is held already (a redelivery of what we are working on). `started`: by the step that has
        taken it."""
        with self._lock:
            if tag in self._held:
                return False
            extra = list_name in self._one_more and self._items[list_name] >= self._limit(list_name)
            self._held[tag] = _Held(list_name, items, extra, started)
            self._items[list_name] += items
            self._jobs[list_name] += 1
            self._extras[list_name] += extra
            self._one_more.discard(list_name)
            return True

    def started(self, tag: str) -> Started | None:
        """Of a job that was started when its message was taken."""
        held = self._held.get(tag)
        return held.started if held is not None else None

    def may_start(self, lists: list[str]) -> bool:
        """Whether what is taken of these lists, if it is one job, is all that there is to do."""
        return not self._held and all(map(self._starts, lists))

    def release(self, tag: str) -> bool:
        """False when it was not held."""
        with self._lock:
            held = self._held.pop(tag, None)
            if held is None:
                return False
            self._items[held.list_name] -= held.items
            self._jobs[held.list_name] -= 1
            self._extras[held.list_name] -= held.extra
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
        """For each list how many more items may be taken; -1 as the limit says."""
        with self._lock:
            return [0] * len(lists) if self._closed else [self._free(name) for name in lists]

    def _free(self, name: str) -> int:
        limit = self._limit(name)
        return limit if limit <= 0 else max(limit - self._items[name], int(name in self._one_more))

    def one_more(self) -> bool:
        """Of a list whose items have no room one job may be taken: else a few long ones would hold up another key's
        lone one until they end. No more than EXTRAS of them are held at once, for they may be long too, and other
        workers would have nothing to do. False: none is let in."""
        with self._lock:
            long = [name for name, items in self._items.items() if items > self._jobs[name]]
            self._one_more = {name for name in long if self._extras[name] < EXTRAS and self._is_full(name)}
            return bool(self._one_more)

    def _is_full(self, name: str) -> bool:
        return self._jobs[name] < self._limit(name) <= self._items[name]

    def close(self) -> None:
        """Take nothing more: the worker is stopping."""
        with self._lock:
            self._closed = True

    def tags(self) -> list[str]:
        """All held, oldest first."""
        with self._lock:
            return list(self._held)

    def __len__(self) -> int:
        """How many are held."""
        return len(self._held)
