"""Paused models: workers start no job of them, and callers may still submit. It is no part of the registry, so that no
change of that, by hand or by a models file, ends a pause unseen; and it is read by the scripts themselves
(shared/lua/drain.lua, claim.lua), so that no job starts after the answer to `pause`."""

from __future__ import annotations

from datetime import UTC, datetime

from api.registry import LiveRegistry
from api.submitter import Command, Submitter
from shared import keys
from shared.logs import Event, get_logger
from shared.registry import Registry, ref_of
from shared.scripts_operate import pause

logger = get_logger("api")


class Pauses:
    """For one event loop. All methods raise StoreUnavailable."""

    def __init__(self, registry: LiveRegistry, submitter: Submitter) -> None:
        self._registry, self._submitter = registry, submitter

    async def read(self) -> dict[str, datetime]:
        """Since when, by model."""
        found: dict[bytes, bytes] = await self._submitter.one(Command("HGETALL", keys.PAUSED))
        return {model.decode(): datetime.fromtimestamp(int(at) / 1000, UTC) for model, at in found.items()}

    async def pause(self, model: str) -> bool:
        """Whether it was not so before. Raises UnknownModel."""
        known(await self._registry.refresh(), model)
        changed: bool = await self._submitter.one(pause(model, on=True))
        if changed:
            logger.info(Event.MODEL_PAUSED, model=model)
        return changed

    async def resume(self, model: str) -> bool:
        """Whether it was paused. Raises UnknownModel."""
        changed = await self.forget(model)
        if not changed:
            known(await self._registry.refresh(), model)
        return changed

    async def forget(self, model: str) -> bool:
        """As `resume`, also of what is no model any more."""
        changed: bool = await self._submitter.one(pause(model, on=False))
        if changed:
            logger.info(Event.MODEL_RESUMED, model=model)
        return changed


def known(registry: Registry, model: str) -> None:
    """It is configured, or jobs of it may be left. Raises UnknownModel."""
    if not any(ref_of(ref).model == model for ref in registry.retiring):
        registry.entry(model)
