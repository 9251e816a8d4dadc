"""Purge: all jobs of a model that have not started end as canceled. In slices, so that Redis serves others in between;
each job ends in the one place where jobs do (`end_job` in shared/lua/prelude.lua), so whoever waits for it is told."""

from __future__ import annotations

import time
from collections.abc import Sequence

from api.pauses import known
from api.registry import LiveRegistry
from api.submitter import Command, Submitter
from shared import keys, messages
from shared.logs import Event, get_logger
from shared.scripts_operate import Purged, Where, purge

logger = get_logger("api")

SLICE = 200  # jobs of one script: a few milliseconds
LONGEST_S = 120.0  # where jobs come faster than they are canceled
_WHERE: tuple[Where, ...] = ("held", "delayed", "lists")


class Purge:
    """For one event loop."""

    def __init__(self, registry: LiveRegistry, submitter: Submitter) -> None:
        self._registry, self._submitter = registry, submitter

    async def model(self, model: str) -> int:
        """How many jobs were canceled. Those that are submitted meanwhile may be among them. Raises UnknownModel,
        StoreUnavailable (then some have ended; calling again is harmless)."""
        registry = await self._registry.refresh()
        known(registry, model)
        refs = [ref for ref in registry.wanted() if ref.model == model]
        names = [str(ref) for ref in refs]
        queues = [keys.queue_name(ref.model, ref.version) for ref in refs]
        lists = keys.drained_lists(queues, messages.VERSION)
        ended, end = 0, time.monotonic() + LONGEST_S
        try:
            while time.monotonic() < end:
                # A message may go from a list to a worker's hands, or back, while the other place is looked at.
                found = 0
                for where in _WHERE:
                    found += await self._all(lists, names, where, end)
                ended += found
                if found == 0 or not await self._waiting(names):
                    break
        finally:
            logger.info(Event.JOBS_PURGED, model=model, jobs=ended)
        return ended

    async def _all(self, lists: Sequence[str], refs: Sequence[str], where: Where, end: float) -> int:
        ended, cursor = 0, "0"
        while True:
            slice_: Purged = await self._submitter.one(purge(lists, refs, where=where, cursor=cursor, most=SLICE))
            ended, cursor = ended + slice_.ended, slice_.cursor
            if cursor == "0" or time.monotonic() >= end:
                return ended

    async def _waiting(self, refs: Sequence[str]) -> bool:
        counted = await self._submitter.run(
            *(Command("HMGET", keys.COUNTERS + ref, "queued", "delayed") for ref in refs)
        )
        return any(int(number or 0) > 0 for reply in counted if isinstance(reply, list) for number in reply)
