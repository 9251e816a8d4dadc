"""What a worker must have before it is ready: every version has its place, and the preloaded ones are warm."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis

from shared import keys
from shared.catalog import Catalog, Ref
from shared.errors import ConfigError
from shared.logs import Event, get_logger
from shared.settings import Settings
from worker.memory import budget_bytes, file_bytes
from worker.models import LoadedModel, handler_class, load_model
from worker.shelf import Place, Shelf, Standing

logger = get_logger("worker")

_OTHERS_MS = 30_000  # so long one worker has a lazy model to itself; if its jobs still wait then, another loads it too


TellFailed = Callable[..., None]  # ref=, error=


def make_shelf(catalog: Catalog, settings: Settings, device: str, *, tell_failed: TellFailed) -> Shelf:
    """All versions of the models file. Raises ConfigError for a handler or source that is not there (it is told
    before), and for what can never fit into the memory for models."""
    budget = budget_bytes(settings, device)
    places = []
    for ref, spec, version in catalog.refs():
        try:
            kind = handler_class(spec, version, base=settings.models_file.parent)
            places.append(Place(ref, spec, version, kind, file_bytes(version, settings)))
        except ConfigError as error:
            raise _refused(ref, error, tell_failed) from error
    kept = sum(place.size_bytes for place in places if not place.lazy)
    for place in places:
        needed = kept + (place.size_bytes if place.lazy else 0)
        if needed > budget:
            beside = f", the preloaded models {_mb(kept)}" if place.lazy and kept else ""
            raise ConfigError(
                f"{place.ref} can never fit: its files have {_mb(place.size_bytes)}{beside}, and the memory for models "
                f"is {_mb(budget)} (ML_MODEL_MEMORY)"
            )
    return Shelf(places, budget_bytes=budget, clock=time.monotonic)


def preload(shelf: Shelf, load: Callable[[Place], LoadedModel], *, tell_failed: TellFailed) -> None:
    """Main thread. Raises ConfigError: a worker that cannot serve what it was configured for is not ready. The version
    that failed is told before."""
    for place in shelf.places():
        if place.lazy:
            continue
        place.standing = Standing.LOADING
        try:
            model = load(place)
        except Exception as error:
            raise _refused(place.ref, error, tell_failed) from error
        shelf.loaded(place.ref, model, model.size_bytes)
    if shelf.used_bytes() > shelf.budget_bytes:
        sizes = ", ".join(f"{place.ref} {_mb(place.size_bytes)}" for place in shelf.places() if place.model)
        raise ConfigError(
            f"the preloaded models take {_mb(shelf.used_bytes())} ({sizes}), and the memory for models is "
            f"{_mb(shelf.budget_bytes)} (ML_MODEL_MEMORY)"
        )


def load_place(place: Place, settings: Settings, device: str) -> LoadedModel:
    """Load and warm. Raises whatever the handler raises."""
    ref = place.ref
    logger.info(Event.MODEL_LOADING, model=str(ref), source=place.version.source)
    model = load_model(ref, place.spec, place.version, place.kind, device=device, settings=settings)
    logger.info(Event.MODEL_READY, model=str(ref), load_s=round(model.load_s, 2), warm_s=round(model.warm_s, 2))
    return model


def first_to_load(client: redis.Redis, process: str, ref: Ref) -> bool:
    """Whether this worker is to load a lazy model that jobs wait for. Without Redis there is nothing to load it for."""
    try:
        other = client.set(f"{keys.LOADING}{ref}", process, nx=True, get=True, px=_OTHERS_MS)
    except redis.RedisError as error:
        logger.warning(Event.REDIS_LOST, step="load", error=str(error))
        return False
    return other in (None, process.encode())


def _refused(ref: Ref, error: Exception, tell_failed: TellFailed) -> ConfigError:
    logger.error(Event.MODEL_FAILED, model=str(ref), error=str(error), exc_info=error)
    tell_failed(ref=ref, error=f"{type(error).__name__}: {error}")
    return ConfigError(f"{ref} does not load: {error}")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
