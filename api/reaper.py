"""What has expired in the payload store is deleted, by every API process each second. A reference is handed out by one
script (`reap`) and again a minute later if nobody has said that its objects are gone, so no leader is needed."""

from __future__ import annotations

from api.payloads import ApiPayloads
from api.submitter import Command, Submitter
from shared import keys
from shared.errors import PayloadsUnavailable, StoreUnavailable
from shared.logs import Event, get_logger
from shared.payload_place import PayloadRef
from shared.scripts_payloads import reap

logger = get_logger("api")

_MOST = 200
_AGAIN_S = 60.0


class Reaper:
    """For one event loop."""

    def __init__(self, submitter: Submitter, payloads: ApiPayloads) -> None:
        self._submitter, self._payloads = submitter, payloads
        self._store_up = True

    async def step(self) -> None:
        """Delete what is to go now."""
        try:
            while await self._reap() == _MOST and self._store_up:
                pass
        except StoreUnavailable:  # the sweeper tells of it
            return

    async def _reap(self) -> int:
        due: list[str] = await self._submitter.one(reap(limit=_MOST, again_s=_AGAIN_S))
        refs = [ref for text in due if (ref := _ref(text)) is not None and self._payloads.store.has(ref)]
        if refs:
            try:
                await self._payloads.delete(refs)
            except PayloadsUnavailable as error:
                self._tell(False, error.message)
                return len(due)
            self._tell(True)
        # What is in a store that other processes know, or have known, is left to them; what is no reference is a
        # hand's.
        gone = [*map(str, refs), *(text for text in due if _ref(text) is None)]
        if gone:
            await self._submitter.one(Command("ZREM", keys.DOOMED, *gone))
            logger.info(Event.PAYLOADS_REAPED, payloads=len(gone))
        return len(due)

    def _tell(self, up: bool, why: str = "") -> None:
        if up != self._store_up:
            self._store_up = up
            if up:
                logger.info(Event.PAYLOADS_BACK)
            else:
                logger.warning(Event.PAYLOADS_LOST, part="reaper", error=why)


def _ref(text: str) -> PayloadRef | None:
    try:
        return PayloadRef.parse(text)
    except ValueError:
        return None
