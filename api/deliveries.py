"""Deliveries as their owner sees them: what became of each event, and once more."""

from __future__ import annotations

import orjson

from api.auth import Caller
from api.schemas import Delivery, DeliveryAttempt, DeliveryList
from api.submitter import Command, Submitter
from shared import keys
from shared.errors import CannotRedeliver
from shared.outcomes import readable
from shared.scripts_webhooks import redeliver
from shared.types import from_ms
from shared.webhooks import EVENTS, Kind, delivery_id


class DeliveryService:
    """For one event loop. All methods raise StoreUnavailable."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter

    async def of(self, kind: Kind, of: str, caller: Caller) -> DeliveryList:
        """Of a job or batch, as far as they are the caller's; they may outlive it. Raises RecordUnreadable."""
        ids = [delivery_id(of, event) for event in EVENTS[kind]]
        found = []
        replies = await self._submitter.all(*(Command("HGETALL", keys.HOOK + name) for name in ids))
        for name, reply in zip(ids, replies, strict=True):
            fields = _fields(reply)
            if fields and fields["kind"] == kind and caller.owns(fields.get("owner")):
                found.append(_delivery(name, fields))
        return DeliveryList(data=found)

    async def again(self, found: DeliveryList, event: str | None) -> None:
        """Deliver them now, or that event alone, whatever became of them before. Raises CannotRedeliver."""
        ids = [one.id for one in found.data if event in (None, one.event)]
        told: list[str] = await self._submitter.one(redeliver(ids)) if ids else []
        if "due" not in told:
            expired = "its webhook was delivered, and it has expired since" if "gone" in told else None
            raise CannotRedeliver(expired or "no event of it was to be delivered yet, or not to any webhook")


def _fields(reply: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode(errors="replace") for name, value in reply.items() if name != b"body"}


@readable()
def _delivery(name: str, fields: dict[str, str]) -> Delivery:
    attempts = [orjson.loads(line) for line in fields.get("log", "").splitlines()]
    return Delivery(
        id=name,
        event=fields["event"],
        url=fields["url"],
        state=fields["state"],
        attempts=[DeliveryAttempt(**attempt | {"at": from_ms(int(attempt["at"]))}) for attempt in attempts],
        next_at=from_ms(fields.get("next_at")),
    )
