"""The dead letters: messages that nobody could work on, kept for a human to look at, retry or drop."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Any

import redis.asyncio
from prometheus_client import Counter

from api.durable import Durable
from api.letters import ALL, Entry, Filter, compose_retry, detail, obstacle, summary
from api.payloads import ApiPayloads
from api.registry import LiveRegistry
from api.schemas import LetterDetail, LetterPage, Requeued, RequeueFailure
from api.submitter import LOST, Command, Submitter, refusal
from shared import keys, origin, scripts, tracing
from shared.errors import CannotRetry, InvalidInput, UnknownLetter
from shared.logs import Event, get_logger
from shared.origin import Carried, Origin
from shared.settings import Settings
from shared.types import Job, State, from_ms

logger = get_logger("api")

_ID = re.compile(r"\d{1,19}-\d{1,19}")
_READ = 100  # letters of one round trip while looking for what a filter lets through
_MOST_READS = 10  # of one page


class DeadLetters:
    """For one event loop. All methods raise StoreUnavailable when Redis is away or takes no writes."""

    def __init__(
        self,
        settings: Settings,
        registry: LiveRegistry,
        client: redis.asyncio.Redis,
        submitter: Submitter,
        *,
        payloads: ApiPayloads,
        durable: Durable | None,
        accepted: Counter,
    ) -> None:
        self._settings, self._catalog, self._registry = settings, registry.catalog, registry
        self._client, self._submitter, self._durable = client, submitter, durable
        self._payloads, self._accepted = payloads, accepted

    async def page(self, limit: int, *, after: str | None = None, wanted: Filter = ALL) -> LetterPage:
        """The newest first, at most `limit`, older than `after`. Where a filter lets few through a page may be short,
        or empty, and yet not the last. Raises InvalidInput for an `after` that is no letter's id."""
        if after is not None and not _ID.fullmatch(after):
            raise InvalidInput("after must be the id of a letter")
        read = limit if wanted == ALL else _READ
        found: list[Entry] = []
        for _ in range(_MOST_READS):
            entries = await self._older(after, read)
            for entry in entries:
                after = entry.id
                if wanted.passes(entry):
                    found.append(entry)
                if len(found) == limit:
                    return LetterPage(letters=[summary(entry) for entry in found], next=after)
            if len(entries) < read:
                after = None
                break
        return LetterPage(letters=[summary(entry) for entry in found], next=after)

    async def get(self, letter: str) -> LetterDetail:
        """Raises UnknownLetter."""
        entry = await self._entry(letter)
        sizes = [await self._size(place) for place in entry.payloads]
        why = obstacle(entry, self._catalog)
        if why is None and None in sizes:
            why = _GONE
        return detail(entry, sizes, why)

    async def retry(self, letter: str) -> Job:
        """A new job, queued; the letter is gone. Raises UnknownLetter, CannotRetry."""
        entry = await self._entry(letter)
        carried = Carried(origin.current().request_id, tracing.current().context)
        while True:
            asked = compose_retry(
                entry, str(uuid.uuid4()), catalog=self._catalog, settings=self._settings, carried=carried
            )
            made: scripts.Retried = await self._submitter.one(asked.call)
            if made.status != "outdated":
                break
            await self._registry.refresh()
        if made.status == "gone":
            raise UnknownLetter
        if made.status == "payload":
            raise CannotRetry(_GONE)
        self._accepted.labels(asked.ref.model, asked.ref.version).inc()
        logger.info(Event.LETTER_RETRIED, letter=letter, job_id=asked.job_id, retried_from=entry.text("id"))
        if self._durable is not None:
            await self._durable.holds(asked.job_id)
        return Job(
            id=asked.job_id,
            model=asked.ref.model,
            version=asked.ref.version,
            fallback_for=entry.text("fallback_for") or None,
            state=State.QUEUED,
            created_at=datetime.fromtimestamp(made.created_at / 1000, UTC),
            deadline_at=from_ms(made.deadline_at),
            priority=asked.priority,
            labels=asked.labels,
            retried_from=entry.text("id"),
            request_id=carried.request_id or None,
        )

    async def requeue(self, limit: int, *, after: str | None, wanted: Filter) -> Requeued:
        """Retry each letter that the filter lets through, the newest first, at most `limit`; those that come meanwhile
        are not. Which failed, and why; those stay."""
        done = Requeued()
        left = limit
        while left > 0:
            page = await self.page(min(left, _READ), after=after, wanted=wanted)
            for letter in page.letters:
                try:
                    await self.retry(letter.id)
                    done.retried += 1
                except (CannotRetry, UnknownLetter) as error:
                    told = RequeueFailure(letter=letter.id, code=error.code, detail=error.message)
                    done.failed.append(told)
            left -= len(page.letters)
            after = done.next = page.next
            if after is None:
                break
        return done

    async def drop(self, letter: str) -> None:
        """The letter and its payloads are gone. Raises UnknownLetter."""
        entry = await self._entry(letter)
        job_id = entry.text("id")
        if not await self._submitter.one(scripts.drop(letter, job_id=job_id, payloads=len(entry.payload_keys))):
            raise UnknownLetter
        logger.info(Event.LETTER_DROPPED, letter=letter, **Origin(job_id=job_id).names())

    async def _entry(self, letter: str) -> Entry:
        if not _ID.fullmatch(letter):
            raise UnknownLetter
        found = await self._submitter.one(Command("XRANGE", keys.DEAD, letter, letter))
        if not found:
            raise UnknownLetter
        return _entry(*found[0])

    async def _size(self, key: str) -> int | None:
        if not key.startswith(keys.PAYLOAD):
            return await self._payloads.size(key)
        size = int(await self._submitter.one(Command("STRLEN", key)))
        return size if size or await self._submitter.one(Command("EXISTS", key)) else None

    async def _older(self, after: str | None, count: int) -> list[Entry]:
        if after is not None and not after.replace("-", "").strip("0"):
            return []  # nothing is older than 0-0, which Redis calls an error
        # Not among the submits: a page of letters is large, and theirs would wait for it.
        try:
            found: Any = await self._client.xrevrange(keys.DEAD, max=f"({after}" if after else "+", count=count)
        except LOST as error:
            raise refusal(error) from None
        return [_entry(*one) for one in found]


_GONE = "a part of its input is gone"


def _entry(number: bytes, fields: dict[bytes, bytes]) -> Entry:
    return Entry(number.decode(), fields)
