"""Where a job goes: to the model that is asked for or, where that cannot take it now, to the fallback that it names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from prometheus_client import Counter

from api.pauses import Pauses
from api.presence import Presence
from api.submission import NewJob, Target, Ticket
from shared.catalog import Catalog, Ref
from shared.errors import (
    DeadlineImpossible,
    InvalidInput,
    QueueFull,
    RateLimited,
    StoreUnavailable,
    TooLarge,
    UnknownModel,
)
from shared.fallback import FallbackSpec
from shared.logs import Event, get_logger

logger = get_logger("api")

FALLBACK_FOR = "ML-Fallback-For"  # header of every answer about a job that went to a fallback
Submit = Callable[[Target], Awaitable[Ticket]]
Reason = Literal["queue_full", "no_worker"]

# With these nothing was accepted, and the model that was asked for may say something else.
_REFUSALS = (DeadlineImpossible, InvalidInput, QueueFull, RateLimited, TooLarge, UnknownModel)


class Fallbacks:
    """For one event loop. A fallback only adds: where there is none that may and can take the job, or it refuses too,
    the answer is what it would be without one. `count`: jobs that went to one, by the model that was asked for and the
    reason."""

    def __init__(self, catalog: Catalog, presence: Presence, pauses: Pauses, count: Counter) -> None:
        self._catalog, self._presence, self._pauses, self._count = catalog, presence, pauses, count

    async def submit(self, new: NewJob, submit: Submit) -> Ticket:
        """By `submit`, which is called twice at most. Raises UnknownModel, and what `submit` does."""
        etag = self._catalog.etag
        ref = self._catalog.resolve(new.model, new.version, sticky=new.sticky)
        asked = Target(ref, self._catalog.spec(ref.model), etag, new.parameters)
        named = self._named(new, ref.model)
        if named is None:
            ticket = await submit(asked)
        elif await self._unserved(asked.ref):
            ticket = await self._instead(new, asked, named, submit, "no_worker") or await submit(asked)
        else:
            try:
                ticket = await submit(asked)
            except QueueFull:
                other = await self._instead(new, asked, named, submit, "queue_full")
                if other is None:
                    raise
                ticket = other
        if ticket.fallback_for:
            new.headers[FALLBACK_FOR] = ticket.fallback_for
        return ticket

    def _named(self, new: NewJob, model: str) -> FallbackSpec | None:
        """Unless the caller wants this very version, may not use the other, or has written in its tokeniser's ids."""
        named = self._catalog.fallback(model)
        if named is None or new.pinned or not new.caller.may_use(named.model) or _has_token_ids(named, new.input):
            return None
        return named

    async def _unserved(self, ref: Ref) -> bool:
        """No living worker has it. Where Redis cannot tell, one may."""
        try:
            return not (await self._presence.workers()).serves(str(ref))
        except StoreUnavailable:
            return False

    async def _works(self, ref: Ref) -> bool:
        """A living worker has it, and nobody has paused it. Where Redis cannot tell, it may not."""
        try:
            workers, paused = await self._presence.workers(), await self._pauses.read()
        except StoreUnavailable:
            return False
        return workers.serves(str(ref)) > 0 and ref.model not in paused

    async def _instead(
        self, new: NewJob, asked: Target, named: FallbackSpec, submit: Submit, reason: Reason
    ) -> Ticket | None:
        """From the fallback; None: it cannot do the job now either, or refuses it."""
        try:
            other = self._target(new, asked, named)
            if not await self._works(other.ref):
                return None
            ticket = await submit(other)
        except _REFUSALS:
            return None
        if ticket.fresh:
            self._count.labels(asked.ref.model, reason).inc()
            logger.info(Event.JOB_FELL_BACK, model=asked.ref.model, to=str(other.ref), reason=reason)
        return ticket

    def _target(self, new: NewJob, asked: Target, named: FallbackSpec) -> Target:
        ref = self._catalog.resolve(named.model, sticky=new.sticky)
        parameters = new.parameters
        if named.dimensions is not None and parameters.get("dimensions") is None:
            parameters = parameters | {"dimensions": named.dimensions}
        return Target(ref, self._catalog.spec(ref.model), asked.etag, parameters, fallback_for=asked.ref.model)


def _has_token_ids(named: FallbackSpec, value: Any) -> bool:
    """Of an input for embeddings: ids that mean other words to another model."""
    if named.dimensions is None:
        return False
    items = value if isinstance(value, list) else [value]
    texts = [text for item in items if isinstance(item, dict) for text in (item.get("text"), *_listed(item))]
    return any(isinstance(text, list) for text in texts)


def _listed(item: dict[str, Any]) -> list[Any]:
    texts = item.get("texts")
    return texts if isinstance(texts, list) else []
