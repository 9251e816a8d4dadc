"""Deadlines: every API process ends overdue jobs each second, mends what lost records left behind, and drops dead
letters that are too old. One idempotent script, so no leader is needed."""

from __future__ import annotations

from api.submitter import Submitter
from shared import keys
from shared.catalog import Catalog
from shared.errors import StoreUnavailable
from shared.logs import MOST_TOLD, Event, get_logger
from shared.scripts import Swept, sweep

logger = get_logger("api")

_MOST = 500


class Sweeper:
    """For one event loop."""

    def __init__(self, submitter: Submitter, catalog: Catalog, *, dead_ttl_s: float) -> None:
        self._submitter = submitter
        self._catalog = catalog
        self._dead_ttl_ms = int(dead_ttl_s * 1000)
        self._store_up = True

    async def step(self) -> None:
        """Sweep until there is nothing left to sweep now."""
        try:
            while await self._sweep() == _MOST:
                pass
            self._tell(True)
        except StoreUnavailable as error:
            self._tell(False, error.message)

    async def _sweep(self) -> int:
        queues = {str(ref): keys.queue_name(ref.model, ref.version) for ref, _, _ in self._catalog.refs()}
        swept: Swept = await self._submitter.one(sweep(queues, limit=_MOST, dead_ttl_ms=self._dead_ttl_ms))
        if swept.ended:
            logger.info(Event.JOBS_SWEPT, jobs=len(swept.ended), job_ids=swept.ended[:MOST_TOLD])
        if swept.strays:
            logger.warning(Event.STRAYS_MENDED, strays=swept.strays)
        return len(swept.ended)

    def _tell(self, up: bool, why: str = "") -> None:
        if up != self._store_up:
            self._store_up = up
            if up:
                logger.info(Event.REDIS_BACK)
            else:
                logger.warning(Event.REDIS_LOST, error=why)
