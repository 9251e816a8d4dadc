"""The loader thread: builds and warms models beside those that run, and frees the memory of those that nobody needs.

Only lazy models come and go; preloaded ones are here before the worker is ready (worker/run.py).
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
_RETRY_S = 30.0  # after a failure: its jobs stay queued, for others


class Loader:
    """`load` builds and warms a version (or raises); `first` says whether this worker is to load one now that others
    could as well; `on_change` is called whenever a version has come or gone."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        load: Callable[[Place], LoadedModel],
        first: Callable[[Ref], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._shelf, self._load, self._first, self._on_change = shelf, load, first, on_change
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

    def _loop(self) -> None:
        while True:
            self._woken.wait(_TURN_S)
            self._woken.clear()
            self.turn()

    def turn(self) -> None:
        """Unload what was idle for its keep-alive, load what is wanted. Loader thread."""
        self._unload(self._shelf.take_idle(), why="keep_alive")
        for ref in self._shelf.wanted():
            self._bring(self._shelf.place(ref))

    def _bring(self, place: Place) -> None:
        if not self._first(place.ref):
            return
        victims = self._shelf.make_room(place.ref)
        if victims is None:
            if self._told.get(place.ref) != place.wanted_since:
                self._told[place.ref] = place.wanted_since
                logger.info(Event.MODEL_WAITS, model=str(place.ref), size_bytes=place.size_bytes, **self._room())
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
        self._shelf.loaded(place.ref, model, model.size_bytes)
        self._unload(self._shelf.shrink(), why=f"{place.ref} is larger than its files")
        if self._shelf.used_bytes() > self._shelf.budget_bytes:
            del model
            self._unload([place.ref], why="larger than its files: now that is known, it waits for the memory")
            if not self._shelf.can_fit(place.ref):
                self._fail(place, f"it takes {place.size_bytes} bytes, more than ML_MODEL_MEMORY leaves for it")
            return
        self._on_change()

    def _fail(self, place: Place, error: str) -> None:
        self._shelf.failed(place.ref, error, retry_in_s=_RETRY_S)
        memory.free()
        self._on_change()

    def _unload(self, refs: list[Ref], *, why: str) -> None:
        for ref in refs:
            place = self._shelf.place(ref)
            model = place.model
            self._shelf.unloaded(ref)
            if model is not None:
                model.handler.unload()
            del model
            memory.free()
            logger.info(Event.MODEL_UNLOADED, model=str(ref), size_bytes=place.size_bytes, why=why, **self._room())
        if refs:
            self._on_change()

    def _room(self) -> dict[str, int]:
        return {"used_bytes": self._shelf.used_bytes(), "budget_bytes": self._shelf.budget_bytes}
