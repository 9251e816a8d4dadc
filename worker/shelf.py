"""Which versions this worker has, in which standing, and what must go so that another one fits. No thread, no torch.

The shelf is the one place that knows; the loader (worker/loader.py) acts on it. Memory is the device's, or the host's
where the device is the CPU: what each version was measured to take when it was loaded, its files' size before.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shared.catalog import ModelSpec, Ref, VersionSpec
from worker.models import AnyHandler, LoadedModel

WANTED_S = 5.0  # a wish that is not repeated for so long is forgotten: others have served it
STAY_S = 3.0  # so long what was loaded stays at least: its jobs are still to be taken
PATIENCE_S = 10.0  # so long a wish waits for others to be idle; then one that has been here as long makes way


class Standing(enum.StrEnum):
    """Of a version on this worker; `state` of its card."""

    UNLOADED = enum.auto()  # lazy, and not asked for
    LOADING = enum.auto()
    READY = enum.auto()
    DRAINING = enum.auto()  # takes no more jobs, and goes when those in hand are done
    UNLOADING = enum.auto()
    FAILED = enum.auto()  # did not load; a lazy one is tried again later


@dataclass(slots=True)
class Place:
    """One version's. `in_flight`: jobs in this worker's hands; `size_bytes` of the memory that the budget is about."""

    ref: Ref
    spec: ModelSpec
    version: VersionSpec
    kind: type[AnyHandler]
    size_bytes: int = 0
    standing: Standing = Standing.UNLOADED
    model: LoadedModel | None = None
    error: str = ""
    in_flight: int = 0
    used_at: float = 0.0
    loaded_at: float = 0.0
    wanted_at: float = float("-inf")
    wanted_since: float = 0.0
    retry_at: float = float("-inf")

    @property
    def lazy(self) -> bool:
        """It may be unloaded while nobody needs it."""
        return self.spec.load == "lazy"


class Shelf:
    """Any thread. `clock` is monotonic, in seconds."""

    def __init__(self, places: Iterable[Place], *, budget_bytes: int, clock: Callable[[], float]) -> None:
        self._places = {place.ref: place for place in places}
        self._lock = threading.Lock()
        self._clock = clock
        self.budget_bytes = budget_bytes
        self.on_device: Callable[[], Ref | None] = lambda: None
        """What runs now: its jobs may have ended already (a time limit of their own), and yet it must not go."""

    def __contains__(self, ref: Ref) -> bool:
        return ref in self._places

    def places(self) -> list[Place]:
        """All, in the order of the models file."""
        return list(self._places.values())

    def place(self, ref: Ref) -> Place:
        """Raises KeyError for a version that is not this worker's."""
        return self._places[ref]

    def ready(self, ref: Ref) -> LoadedModel | None:
        """The model, if it runs here now."""
        place = self._places.get(ref)
        return place.model if place is not None and place.standing is Standing.READY else None

    def begin(self, ref: Ref) -> LoadedModel | None:
        """A job of it is in hand: from now on it is not unloaded. None if it is not ready, and nothing is counted."""
        with self._lock:
            place = self._places[ref]
            if place.standing is not Standing.READY:
                return None
            place.in_flight += 1
            place.used_at = self._clock()
            return place.model

    def end(self, ref: Ref) -> None:
        """That job is no longer in hand."""
        with self._lock:
            place = self._places[ref]
            place.in_flight -= 1
            place.used_at = self._clock()

    def want(self, ref: Ref) -> None:
        """Jobs of it wait, and it is not ready."""
        place, now = self._places[ref], self._clock()
        if now - place.wanted_at > WANTED_S:
            place.wanted_since = now
        place.wanted_at = now

    def wanted(self) -> list[Ref]:
        """What is to be loaded now, the first wish first."""
        now = self._clock()
        open_ = [
            place
            for place in self._places.values()
            if place.standing in (Standing.UNLOADED, Standing.FAILED)
            and now - place.wanted_at <= WANTED_S
            and now >= place.retry_at
        ]
        return [place.ref for place in sorted(open_, key=lambda place: place.wanted_at)]

    def used_bytes(self) -> int:
        """By all that is loaded, or is being loaded or unloaded."""
        return sum(place.size_bytes for place in self._places.values() if _takes_room(place))

    def can_fit(self, ref: Ref) -> bool:
        """Whether it fits when all that may go is gone."""
        kept = sum(place.size_bytes for place in self._places.values() if not place.lazy and place.ref != ref)
        return kept + self._places[ref].size_bytes <= self.budget_bytes

    def make_room(self, ref: Ref) -> list[Ref] | None:
        """Let `ref` be loading, and those be unloading that must go first: the least recently used lazy ones that are
        idle. None when it does not fit now: what is in the way is at work (once the wish has waited long enough, it
        drains), or is to stay."""
        with self._lock:
            place = self._places[ref]
            over = self.used_bytes() + place.size_bytes - self.budget_bytes
            victims = self._idle(over)
            if victims is None:
                if self._clock() - place.wanted_since >= PATIENCE_S:
                    self._drain(over)
                return None
            for victim in victims:
                victim.standing = Standing.UNLOADING
            place.standing = Standing.LOADING
            return [victim.ref for victim in victims]

    def shrink(self) -> list[Ref]:
        """What goes, since what was loaded took more than was thought; as many as there are."""
        with self._lock:
            victims = self._idle(self.used_bytes() - self.budget_bytes) or []
            for victim in victims:
                victim.standing = Standing.UNLOADING
            return [victim.ref for victim in victims]

    def take_idle(self) -> list[Ref]:
        """The lazy ones that nobody has used for their keep-alive; they are unloading from now on."""
        now = self._clock()
        with self._lock:
            victims = [
                place
                for place in self._places.values()
                if self._may_go(place) and now - place.used_at > place.spec.keep_alive_s > 0
            ]
            for victim in victims:
                victim.standing = Standing.UNLOADING
            return [victim.ref for victim in victims]

    def loaded(self, ref: Ref, model: LoadedModel, size_bytes: int) -> None:
        """It is ready."""
        with self._lock:
            place = self._places[ref]
            place.model, place.size_bytes, place.standing, place.error = model, size_bytes, Standing.READY, ""
            place.used_at = place.loaded_at = self._clock()

    def failed(self, ref: Ref, error: str, *, retry_in_s: float) -> None:
        """It did not load."""
        with self._lock:
            place = self._places[ref]
            place.model, place.standing, place.error = None, Standing.FAILED, error
            place.retry_at = self._clock() + retry_in_s

    def unloaded(self, ref: Ref) -> None:
        """Its memory is free."""
        with self._lock:
            place = self._places[ref]
            place.model, place.standing = None, Standing.UNLOADED

    def _idle(self, over: int) -> list[Place] | None:
        """The fewest idle ones, the least recently used first, that free `over` bytes; None if all are too few."""
        victims: list[Place] = []
        settled = self._clock() - STAY_S
        idle = [place for place in self._places.values() if self._may_go(place) and place.loaded_at <= settled]
        for place in sorted(idle, key=lambda place: place.used_at):
            if over <= 0:
                break
            victims.append(place)
            over -= place.size_bytes
        return victims if over <= 0 else None

    def _may_go(self, place: Place) -> bool:
        idle = place.in_flight == 0 and place.ref != self.on_device()
        return place.lazy and place.standing in _HERE and idle

    def _drain(self, over: int) -> None:
        """Let those that have been here the longest take no more jobs, as many as free `over` bytes with the idle."""
        lazy = [place for place in self._places.values() if place.lazy and place.standing in _HERE]
        for place in sorted(lazy, key=lambda place: (place.standing is Standing.READY, place.loaded_at)):
            if over <= 0 or self._clock() - place.loaded_at < PATIENCE_S:
                return
            place.standing = Standing.DRAINING
            over -= place.size_bytes


_HERE = (Standing.READY, Standing.DRAINING)


def _takes_room(place: Place) -> bool:
    return place.standing in (*_HERE, Standing.LOADING, Standing.UNLOADING)
