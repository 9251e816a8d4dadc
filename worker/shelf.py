"""Which versions this worker has, in which standing, and what must go so that another one fits. No thread, no torch.

The shelf is the one place that knows; the loader (worker/loader.py) acts on it. Memory is the device's, or the host's
where the device is the CPU: what each version was measured to take when it was loaded, its files' size before.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from shared.catalog import Ref
from shared.model_spec import ModelSpec, VersionSpec
from shared.registry import Wanted
from worker.handler_class import AnyHandler
from worker.models import LoadedModel

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


@dataclass(slots=True, eq=False)
class Place:
    """One build of a version. `in_flight`: jobs in this worker's hands; `size_bytes` of the memory that the budget is
    about; `kind` None: its handler was not found (`error`)."""

    ref: Ref
    spec: ModelSpec
    kind: type[AnyHandler] | None
    size_bytes: int = 0
    coming: bool = False  # callers get it when workers have it
    going: bool = False  # on its way out
    yielding: bool = False  # the memory does not hold both it and another of its model: they take turns
    standing: Standing = Standing.UNLOADED
    model: LoadedModel | None = None
    loaded: bool = False  # it has been, once
    error: str = ""
    in_flight: int = 0
    used_at: float = 0.0
    loaded_at: float = 0.0
    wanted_at: float = float("-inf")
    wanted_since: float = 0.0
    retry_at: float = float("-inf")
    build: str = field(init=False)

    def __post_init__(self) -> None:
        self.build = self.spec.build(self.ref.version)

    @property
    def version(self) -> VersionSpec:
        """As the registry says it."""
        return self.spec.versions[self.ref.version]

    @property
    def lazy(self) -> bool:
        """It may be unloaded while nobody needs it."""
        return self.spec.load == "lazy" or self.yielding

    @property
    def due(self) -> bool:
        """It is to be loaded though no job asks for it."""
        return not self.lazy or (self.coming and not self.loaded)


class Shelf:
    """Any thread; but only the loader's changes which places there are. `clock` is monotonic, in seconds."""

    def __init__(self, places: Iterable[Place], *, budget_bytes: int, clock: Callable[[], float]) -> None:
        self._places = {place.ref: place for place in places}
        self._next: dict[Ref, Place] = {}  # another build of a version, until it is loaded
        self._leaving: list[Place] = []  # take no more jobs, and go when those in hand are done
        self._lock = threading.Lock()
        self._clock = clock
        self.budget_bytes = budget_bytes
        self.is_on_device: Callable[[Place], bool] = lambda _: False
        """What runs now: its jobs may have ended already (a time limit of their own), and yet it must not go."""

    def places(self) -> list[Place]:
        """One for each version, in the order of the registry."""
        return list(self._places.values())

    def next_of(self, ref: Ref) -> Place | None:
        """The build that is to take the place of the one that is there."""
        return self._next.get(ref)

    def follow(self, wanted: Mapping[Ref, Wanted], make: Callable[[Ref, Wanted], Place]) -> bool:
        """Have these versions and no others; what is loaded differently takes the old one's place when it is loaded.
        Whether anything has changed. Loader thread."""
        before = self._every()
        current: dict[Ref, Place] = {}
        for ref, asked in wanted.items():
            here, build = self._places.get(ref), asked.spec.build(ref.version)
            following = self._next.get(ref)
            if here is None or here.build == build:
                place = current[ref] = here or self._fresh(make(ref, asked))
            else:
                current[ref] = here
                if following is None or following.build != build:
                    following = self._next[ref] = self._fresh(make(ref, asked))
                place = following
            place.spec, place.coming, place.going = asked.spec, asked.coming, asked.going
            if place is here and following is not None:
                del self._next[ref]
        with self._lock:
            gone = [place for ref, place in self._places.items() if ref not in current]
            self._places = current
            self._next = {ref: place for ref, place in self._next.items() if ref in current}
            self._let_go(gone)
            self._settle()
        return self._every() != before

    def _fresh(self, place: Place) -> Place:
        place.wanted_since = self._clock()
        return place

    def _let_go(self, places: Iterable[Place]) -> None:
        for place in places:
            if place.standing in _HERE:
                place.standing = Standing.DRAINING
                self._leaving.append(place)

    def _settle(self) -> None:
        """Where nothing is on its way out any more, nothing needs to yield."""
        for place in self._places.values():
            if place.yielding and not place.coming and not self._rivals(place):
                place.yielding = False

    def _rivals(self, place: Place) -> list[Place]:
        """What goes when this one is there."""
        return [
            other
            for other in self._every()
            if other is not place
            and other.ref.model == place.ref.model
            and (other.going or other.ref == place.ref or other in self._leaving)
        ]

    def _every(self) -> list[Place]:
        return [*self._places.values(), *self._next.values(), *self._leaving]

    def ready(self, ref: Ref) -> LoadedModel | None:
        """The model, if it runs here now."""
        place = self._places.get(ref)
        return place.model if place is not None and place.standing is Standing.READY else None

    def begin(self, ref: Ref) -> Place | None:
        """A job of it is in hand: from now on it is not unloaded. None if it is not ready, and nothing is counted."""
        with self._lock:
            place = self._places.get(ref)
            if place is None or place.standing is not Standing.READY:
                return None
            place.in_flight += 1
            place.used_at = self._clock()
            return place

    def end(self, place: Place) -> None:
        """That job is no longer in hand."""
        with self._lock:
            place.in_flight -= 1
            place.used_at = self._clock()

    def want(self, ref: Ref) -> None:
        """Jobs of it wait, and it is not ready."""
        place, now = self._places.get(ref), self._clock()
        if place is None:
            return
        if now - place.wanted_at > WANTED_S:
            place.wanted_since = now
        place.wanted_at = now

    def wanted(self) -> list[Place]:
        """What is to be loaded now: what jobs wait for, the first wish first, then what is due."""
        now = self._clock()
        open_ = [
            place
            for place in (*self._places.values(), *self._next.values())
            if place.standing in (Standing.UNLOADED, Standing.FAILED) and now >= place.retry_at
        ]
        asked = sorted((p for p in open_ if now - p.wanted_at <= WANTED_S), key=lambda place: place.wanted_at)
        due = [place for place in open_ if place not in asked and (place.due or self._next.get(place.ref) is place)]
        return asked + due

    def relent(self) -> None:
        """Nobody wishes any more for the room that they were to free: they take jobs again."""
        with self._lock:
            for place in self._places.values():
                if place.standing is Standing.DRAINING:
                    place.standing = Standing.READY

    def used_bytes(self) -> int:
        """By all that is loaded, or is being loaded or unloaded."""
        return sum(place.size_bytes for place in self._every() if _takes_room(place))

    def can_fit(self, place: Place) -> bool:
        """Whether it fits when all that may go is gone."""
        kept = sum(other.size_bytes for other in self._every() if not other.lazy and other is not place)
        return kept + place.size_bytes <= self.budget_bytes

    def yield_for(self, place: Place) -> list[Ref]:
        """It does not fit beside the versions of its model that go when it is there: from now on they take turns, as if
        they were lazy, and none waits for ever. Those; none where that would not help."""
        with self._lock:
            rivals = [other for other in self._rivals(place) if not other.lazy]
            for one in (place, *rivals):
                one.yielding = True
            if rivals and self.can_fit(place):
                return [other.ref for other in rivals]
            for one in (place, *rivals):
                one.yielding = False
            return []

    def make_room(self, place: Place) -> list[Place] | None:
        """Let it be loading, and those be unloading that must go first: the least recently used lazy ones that are
        idle. None when it does not fit now: what is in the way is at work (once the wish has waited long enough, it
        drains), or is to stay."""
        with self._lock:
            over = self.used_bytes() + place.size_bytes - self.budget_bytes
            victims = self._idle(over)
            if victims is None:
                if self._clock() - place.wanted_since >= PATIENCE_S:
                    self._drain(over)
                return None
            for victim in victims:
                victim.standing = Standing.UNLOADING
            place.standing = Standing.LOADING
            return victims

    def shrink(self) -> list[Place]:
        """What goes, since what was loaded took more than was thought; as many as there are."""
        with self._lock:
            victims = self._idle(self.used_bytes() - self.budget_bytes) or []
            for victim in victims:
                victim.standing = Standing.UNLOADING
            return victims

    def take_left(self) -> list[Place]:
        """Those on their way out that have no work in hand any more; they are unloading from now on."""
        with self._lock:
            victims = [place for place in self._leaving if place.standing in _HERE and self._is_idle(place)]
            for victim in victims:
                victim.standing = Standing.UNLOADING
            return victims

    def take_idle(self) -> list[Place]:
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
            return victims

    def loaded(self, place: Place, model: LoadedModel) -> None:
        """It is loaded, and takes jobs from now on; another build of it takes none any more."""
        with self._lock:
            place.model, place.standing, place.error, place.loaded = model, Standing.READY, "", True
            place.used_at = place.loaded_at = self._clock()
            if self._next.get(place.ref) is place:
                old = self._places[place.ref]
                self._places[place.ref] = self._next.pop(place.ref)
                self._let_go([old])
                self._settle()

    def failed(self, place: Place, error: str, *, retry_in_s: float) -> None:
        """It did not load. What made way for it need not any more."""
        with self._lock:
            place.model, place.standing, place.error = None, Standing.FAILED, error
            place.retry_at = self._clock() + retry_in_s
            for one in (place, *self._rivals(place)) if place.yielding else ():
                one.yielding = False

    def unloaded(self, place: Place) -> None:
        """Its memory is free."""
        with self._lock:
            place.model, place.standing = None, Standing.UNLOADED
            if place in self._leaving:
                self._leaving.remove(place)
                self._settle()

    def _idle(self, over: int) -> list[Place] | None:
        """The fewest idle ones, the least recently used first, that free `over` bytes; None if all are too few."""
        victims: list[Place] = []
        settled = self._clock() - STAY_S
        idle = [place for place in self._every() if self._may_go(place) and place.loaded_at <= settled]
        for place in sorted(idle, key=lambda place: place.used_at):
            if over <= 0:
                break
            victims.append(place)
            over -= place.size_bytes
        return victims if over <= 0 else None

    def _may_go(self, place: Place) -> bool:
        return place.lazy and place.standing in _HERE and self._is_idle(place)

    def _is_idle(self, place: Place) -> bool:
        return place.in_flight == 0 and not self.is_on_device(place)

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
