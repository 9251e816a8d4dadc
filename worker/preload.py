"""What a worker must have before it is ready: every version has its place, and the preloaded ones are warm."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import redis

from shared import keys
from shared.catalog import ALL_LOCAL, ALL_PROVIDERS, Ref, takes
from shared.errors import ConfigError
from shared.logs import Event, get_logger
from shared.registry import Registry, Wanted
from shared.settings import Settings
from worker.cpu import CpuShare
from worker.handler_class import handler_class
from worker.loader import RETRY_S
from worker.memory import budget_bytes, file_bytes
from worker.models import LoadedModel, load_model
from worker.registry import RegistryReader
from worker.shelf import Place, Shelf, Standing

logger = get_logger("worker")

_OTHERS_MS = 30_000  # so long one worker has a lazy model to itself; if its jobs still wait then, another loads it too


TellFailed = Callable[..., None]  # ref=, error=


def make_shelf(registry: Registry, settings: Settings, device: str, *, tell_failed: TellFailed) -> Shelf:
    """All that callers get now, of the models that this worker takes. Raises ConfigError for a handler or source that
    is not there (it is told before), and for what can never fit into the memory for models."""
    kinds = (ALL_LOCAL, ALL_PROVIDERS)
    unknown = [name for name in settings.own_models if name not in registry.models and name not in kinds]
    if unknown:
        known = ", ".join(registry.models)
        raise ConfigError(f"ML_MODELS: no model {unknown[0]!r} is configured; there are: {known}")
    budget = budget_bytes(settings, device)
    places = []
    for ref, asked in _own(registry.served(), settings).items():
        place = make_place(ref, asked, settings)
        if place.error and not asked.going and not rolling_out(registry, ref):
            raise _refused(ref, ConfigError(place.error), tell_failed)
        places.append(place)
    kept = sum(place.size_bytes for place in places if not place.lazy)
    for place in places:
        needed = kept + (place.size_bytes if place.lazy else 0)
        if needed > budget and not place.going:
            beside = f", the preloaded models {_mb(kept)}" if place.lazy and kept else ""
            raise ConfigError(
                f"{place.ref} can never fit: its files have {_mb(place.size_bytes)}{beside}, and the memory for models "
                f"is {_mb(budget)} (ML_MODEL_MEMORY)"
            )
    return Shelf(places, budget_bytes=budget, clock=time.monotonic)


def make_place(ref: Ref, asked: Wanted, settings: Settings) -> Place:
    """Not loaded. One whose handler or source is not there has failed, and is tried again later."""
    place = Place(ref, asked.spec, None, coming=asked.coming, going=asked.going)
    try:
        place.kind = handler_class(asked.spec, place.version, base=settings.models_file.parent)
        place.size_bytes = file_bytes(place.spec, place.version, settings)
    except ConfigError as error:
        place.error, place.standing = error.message, Standing.FAILED
    return place


def rolling_out(registry: Registry, ref: Ref) -> bool:
    """Whether callers of this model are to get something else anyway: then what they get now may fail."""
    entry = registry.models.get(ref.model)
    return entry is not None and entry.rolling


def preload(shelf: Shelf, load: Callable[[Place], LoadedModel], registry: Registry, *, tell_failed: TellFailed) -> None:
    """Main thread. Raises ConfigError: a worker that cannot serve what it was configured for is not ready. The version
    that failed is told before."""
    for place in shelf.places():
        if place.lazy:
            continue
        place.standing = Standing.LOADING
        try:
            model = load(place)
        except Exception as error:
            if rolling_out(registry, place.ref):
                logger.error(Event.MODEL_FAILED, model=str(place.ref), error=str(error), exc_info=error)
                shelf.failed(place, f"{type(error).__name__}: {error}", retry_in_s=RETRY_S)
                continue
            raise _refused(place.ref, error, tell_failed) from error
        place.size_bytes = model.size_bytes
        shelf.loaded(place, model)
    if shelf.used_bytes() > shelf.budget_bytes:
        sizes = ", ".join(f"{place.ref} {_mb(place.size_bytes)}" for place in shelf.places() if place.model)
        raise ConfigError(
            f"the preloaded models take {_mb(shelf.used_bytes())} ({sizes}), and the memory for models is "
            f"{_mb(shelf.budget_bytes)} (ML_MODEL_MEMORY)"
        )


def load_place(place: Place, settings: Settings, device: str, share: CpuShare) -> LoadedModel:
    """Load and warm. Raises whatever the handler raises."""
    ref = place.ref
    if place.kind is None:  # it was not there before
        place.kind = handler_class(place.spec, place.version, base=settings.models_file.parent)
    logger.info(Event.MODEL_LOADING, model=str(ref), source=place.version.source)
    model = load_model(ref, place.spec, place.version, place.kind, device=device, settings=settings, share=share)
    logger.info(Event.MODEL_READY, model=str(ref), load_s=round(model.load_s, 2), warm_s=round(model.warm_s, 2))
    return model


def first_to_load(client: redis.Redis, process: str, ref: Ref) -> bool:
    """Whether this worker is to load a lazy model that jobs wait for: none other does, or what did is dead. Without
    Redis there is nothing to load it for."""
    key = f"{keys.LOADING}{ref}"
    try:
        other: Any = client.set(key, process, nx=True, get=True, px=_OTHERS_MS)
        if other in (None, process.encode()):
            return True
        if client.exists(keys.WORKER + other.decode()):
            return False
        client.set(key, process, px=_OTHERS_MS)
    except redis.RedisError as error:
        logger.warning(Event.REDIS_LOST, step="load", error=error)
        return False
    return True


def let_others(client: redis.Redis, ref: Ref) -> None:
    """It is loaded here: those that wait for that may begin."""
    try:
        client.delete(f"{keys.LOADING}{ref}")
    except redis.RedisError as error:
        logger.warning(Event.REDIS_LOST, step="load", error=error)


def follow_registry(reader: RegistryReader, settings: Settings) -> Callable[[Shelf], bool]:
    """For the loader: makes a shelf have what the registry says, whenever that has changed. Without Redis it stays as
    it is."""
    done = ""

    def follow(shelf: Shelf) -> bool:
        nonlocal done
        try:
            if reader.outdated:
                reader.refresh()
        except redis.RedisError as error:
            logger.warning(Event.REDIS_LOST, step="registry", error=error)
        registry = reader.registry
        if registry.etag == done:
            return False
        done = registry.etag
        shelf.follow(_own(registry.wanted(), settings), lambda ref, asked: make_place(ref, asked, settings))
        return True

    return follow


def _own(wanted: dict[Ref, Wanted], settings: Settings) -> dict[Ref, Wanted]:
    own = settings.own_models
    return {ref: asked for ref, asked in wanted.items() if takes(own, ref.model, asked.spec.versions[ref.version])}


def _refused(ref: Ref, error: Exception, tell_failed: TellFailed) -> ConfigError:
    logger.error(Event.MODEL_FAILED, model=str(ref), error=str(error), exc_info=error)
    tell_failed(ref=ref, error=f"{type(error).__name__}: {error}")
    return ConfigError(f"{ref} does not load: {error}")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
