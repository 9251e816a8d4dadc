"""The loader thread: builds and warms models beside those that run, and frees the memory of those that nobody needs.

What is to be there says the registry, which it looks at whenever it is told that it has changed; lazy models come and
go besides. What the registry wanted at the start is here before the worker is ready (worker/run.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from shared.catalog import Ref
from shared.logs import Event, get_logger
from worker import memory
from worker.models import LoadedModel
from worker.shelf import Place, Shelf
from worker.vital import vital_thread

logger = get_logger("worker")

_TURN_S = 1.0
RETRY_S = 30.0  # after a failure: its jobs stay queued, for others
_RETRY_IN_TURNS_S = 600.0  # where each try takes another version away meanwhile


class Loader:
    """`follow` makes the shelf have what the registry says, and tells whether that has changed; `load` builds and warms
    a version (or raises); `first` says whether this worker is to load one now that others could as well, and `done`
    lets the others; `on_change` is called whenever a version has come or gone, `evicted` with each that has
    gone to save memory."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        follow: Callable[[Shelf], bool],
        load: Callable[[Place], LoadedModel],
        first: Callable[[Ref], bool],
        done: Callable[[Ref], None],
        on_change: Callable[[], None],
        evicted: Callable[[Ref], None],
    ) -> None:
        self._evicted = evicted
        self._shelf, self._follow, self._load, self._on_change = shelf, follow, load, on_change
        self._first, self._done = first, done
        self._woken = threading.Event()
        self._told: dict[Ref, float] = {}
        self._thread = vital_thread("loader", self._loop)

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def want(self, ref: Ref) -> None:
        """Jobs of it wait, and it is not ready. Any thread."""
        self._shelf.want(ref)
        self._woken.set()

    def wake(self) -> None:
        """The registry has changed. Any thread."""
        self._woken.set()

    def _loop(self) -> None:
        while True:
            self._woken.wait(_TURN_S)
            self._woken.clear()
            self.turn()

    def turn(self) -> None:
        """Follow the registry, unload what is to go, load what is wanted. Loader thread."""
        if self._follow(self._shelf):
            self._on_change()
        self._unload(self._shelf.take_left(), why="gone", evicted=False)
        self._unload(self._shelf.take_idle(), why="keep_alive")
        wanted = self._shelf.wanted()
        if not wanted:
            self._shelf.relent()
        for place in wanted:
            self._bring(place)

    def _bring(self, place: Place) -> None:
        if place.lazy and not self._first(place.ref):
            return
        victims = self._shelf.make_room(place)
        if victims is None:
            self._wait_for_room(place)
            return
        self._on_change()
        self._unload(victims, why=f"room for {place.ref}")
        try:
            model = self._load(place)
        # Whatever a handler raises: its card tells, and its jobs wait for others.
        except Exception as error:
            logger.error(Event.MODEL_FAILED, model=str(place.ref), error=str(error), exc_info=error)
            self._fail(place, f"{type(error).__name__}: {error}")
            return
        place.size_bytes = model.size_bytes
        self._unload(self._shelf.shrink(), why=f"{place.ref} is larger than its files")
        if self._shelf.used_bytes() > self._shelf.budget_bytes:
            model.handler.unload()
            del model
            self._unload([place], why="larger than its files: now that is known, it waits for the memory")
            return
        self._shelf.loaded(place, model)
        if place.yielding:
            self._done(place.ref)
        self._on_change()

    def _wait_for_room(self, place: Place) -> None:
        making_way: list[Ref] = []
        if not self._shelf.can_fit(place):
            making_way = self._shelf.yield_for(place)
            if not making_way:
                needs = f"it takes {place.size_bytes:,} bytes" if place.size_bytes else "it takes memory"
                self._fail(place, f"{needs}, more than ML_MODEL_MEMORY leaves for it")
                return
        if making_way or self._told.get(place.ref) != place.wanted_since:
            self._told[place.ref] = place.wanted_since
            told = {"making_way": [str(ref) for ref in making_way]} if making_way else {}
            logger.info(Event.MODEL_WAITS, model=str(place.ref), size_bytes=place.size_bytes, **told, **self._room())

    def _fail(self, place: Place, error: str) -> None:
        self._shelf.failed(place, error, retry_in_s=_RETRY_IN_TURNS_S if place.yielding else RETRY_S)
        memory.free()
        self._on_change()

    def _unload(self, places: list[Place], *, why: str, evicted: bool = True) -> None:
        for place in places:
            if evicted:
                self._evicted(place.ref)
            model = place.model
            self._shelf.unloaded(place)
            if model is not None:
                model.handler.unload()
            del model
            memory.free()
            logger.info(
                Event.MODEL_UNLOADED, model=str(place.ref), size_bytes=place.size_bytes, why=why, **self._room()
            )
        if places:
            self._on_change()

    def _room(self) -> dict[str, int]:
        return {"used_bytes": self._shelf.used_bytes(), "budget_bytes": self._shelf.budget_bytes}
