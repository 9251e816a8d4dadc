"""BatchService: accept, get, wait, list, cancel. What a batch becomes is the scripts' (shared/scripts_batches.py)."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
from prometheus_client import Counter
from starlette.types import Receive

from api.auth import Caller
from api.batch_lines import Slices
from api.batch_results import Results, cut_error, not_begun
from api.batch_upload import Uploads
from api.durable import Durable
from api.errors import CallerGone
from api.payloads import ApiPayloads
from api.submission import NewJob
from api.submitter import Command, Submitter
from api.waiter import Waiter, until_gone
from shared import keys, origin
from shared.batches import Batch, BatchPage, BatchState, batch_view
from shared.errors import InvalidInput, StoreUnavailable, UnknownBatch, UnknownJob
from shared.logs import Event, get_logger
from shared.scripts_batches import BatchSeen, cancel_batch, look_at_batch, step_batches
from shared.types import Job, Problem, State, from_ms

logger = get_logger("api")

_STEP = 250  # lines at a time: some milliseconds of Redis
_MOST_STEPS = 400  # in a row
_CURSOR = re.compile(r"([0-9]{1,15})-(batch_[0-9a-f]{32})")
MOST_LISTED = 200  # of a page
_AT_ONCE = 32  # of one caller's batches in the same millisecond


class BatchService:
    """For one event loop. All methods raise StoreUnavailable when Redis is away or takes no writes."""

    def __init__(
        self,
        submitter: Submitter,
        waiter: Waiter,
        uploads: Uploads,
        *,
        payloads: ApiPayloads,
        durable: Durable | None,
        accepted: Counter,
    ) -> None:
        self._submitter, self._waiter, self._uploads = submitter, waiter, uploads
        self._payloads, self._durable, self._accepted = payloads, durable, accepted

    async def accept(self, new: NewJob, slices: Slices) -> Batch:
        """Take a batch in. Raises as `Uploads.accept`."""
        sent, batch_id = await self._uploads.accept(new, slices)
        if self._durable is not None:
            await self._durable.holds(batch_id, kind=keys.BATCH)
        fresh = batch_id == sent.batch_id
        if fresh:
            self._accepted.inc()
            logger.info(
                Event.BATCH_ACCEPTED,
                batch_id=batch_id,
                model=sent.ref.model,
                version=sent.ref.version,
                lines=sent.total,
                refused=sent.refused,
            )
        try:
            return await self.get(batch_id, new.caller)
        except StoreUnavailable:
            if not fresh:
                raise
            # It was accepted: a 503 would say that it was not.
            return batch_view(batch_id, BatchSeen(int(sent.record["created_at"]), sent.record))

    async def get(self, batch_id: str, caller: Caller) -> Batch:
        """Raises UnknownBatch, also for another's."""
        return batch_view(batch_id, await self._look(batch_id, caller))

    async def wait(self, batch_id: str, caller: Caller, timeout_s: float, receive: Receive) -> Batch:
        """The batch when it has ended or is canceled, or as it is when the time is over or the process drains. Raises
        UnknownBatch, CallerGone."""
        waiting = self._waiter.expect(batch_id)
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            seen = await self._look(batch_id, caller, channel=self._waiter.channel)
            if BatchState(seen.record["state"]).terminal:
                return batch_view(batch_id, seen)
            await asyncio.wait((waiting, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not waiting.done():
                raise CallerGone
        finally:
            gone.cancel()
            self._waiter.forget(batch_id, waiting)
        return await self.get(batch_id, caller)

    async def page(self, caller: Caller, *, limit: int, cursor: str | None) -> BatchPage:
        """The caller's own, the newest first. Raises InvalidInput for a cursor that is none."""
        index = keys.BATCHES_OF + caller.owner
        newest: str | int = "+inf"
        last = ""
        if cursor is not None:
            found = _CURSOR.fullmatch(cursor)
            if not found:
                raise InvalidInput("cursor must be `next` of a page before")
            newest, last = int(found[1]), found[2]
        command = Command("ZREVRANGEBYSCORE", index, newest, "-inf", "WITHSCORES", "LIMIT", 0, limit + 1 + _AT_ONCE)
        flat = await self._submitter.one(command)
        # Of one millisecond they are in the order of their ids, the last first.
        ids = [
            (name.decode(), int(float(score)))
            for name, score in _pairs(flat)
            if not last or (int(float(score)), name.decode()) < (newest, last)
        ]
        shown, more = ids[:limit], len(ids) > limit
        replies = await self._submitter.all(*(look_at_batch(name) for name, _ in shown)) if shown else []
        data, expired = [], []
        for (name, _), seen in zip(shown, replies, strict=True):
            if seen.record:
                data.append(batch_view(name, seen))
            else:
                expired.append(name)
        if expired:
            await self._submitter.run(Command("ZREM", index, *expired))
        return BatchPage(data=data, next=f"{shown[-1][1]}-{shown[-1][0]}" if more else None)

    async def cancel(self, batch_id: str, caller: Caller) -> Batch:
        """The batch after the cancel; one that has ended is unchanged. Lines that run end as canceled with what they
        run in. Raises UnknownBatch, also for another's."""
        await self._look(batch_id, caller)
        await self._submitter.one(cancel_batch(batch_id))
        await self._step(batch_id)  # a first part of what is in the queue; the rest follows each second
        return await self.get(batch_id, caller)

    async def results(self, batch_id: str, caller: Caller, ended: Any) -> Results:
        """Raises UnknownBatch, also for another's."""
        await self._look(batch_id, caller)
        return Results(self._submitter, self._payloads, batch_id, ended)

    async def line(self, job_id: str, caller: Caller) -> Job | None:
        """A line that has not begun, as the job that it is to be, or would have been; None: it has begun. Raises
        UnknownJob for what is no line of the caller's."""
        parsed = keys.parse_line(job_id)
        if parsed is None:
            raise UnknownJob
        batch_id, number = parsed
        seen: BatchSeen
        refused: bytes | None
        seen, refused = await self._submitter.all(
            look_at_batch(batch_id), Command("HGET", keys.REFUSED + batch_id, number)
        )
        record = seen.record
        if not record or not caller.owns(record["owner"]) or number >= int(record["total"]):
            raise UnknownJob
        origin.about(job_id)
        code = not_begun(number, record)
        if code is None and not refused:
            return None
        return _line_view(job_id, batch_view(batch_id, seen), refused, code or "", record)

    async def step(self) -> None:
        """What is due, of all batches. Without Redis nothing is."""
        try:
            await self._step("")
        except StoreUnavailable:
            return

    async def _step(self, batch_id: str) -> None:
        for _ in range(_MOST_STEPS):
            if await self._submitter.one(step_batches(limit=_STEP, batch_id=batch_id)) < _STEP:
                return

    async def _look(self, batch_id: str, caller: Caller, *, channel: str = "") -> BatchSeen:
        if not keys.is_batch(batch_id):
            raise UnknownBatch
        seen: BatchSeen = await self._submitter.one(look_at_batch(batch_id, channel=channel))
        if not seen.record or not caller.owns(seen.record.get("owner")):
            raise UnknownBatch
        origin.about(batch_id)
        return seen


def _line_view(job_id: str, batch: Batch, refused: bytes | None, code: str, record: dict[str, str]) -> Job:
    state, error, finished_at = State.QUEUED, refused, record["created_at"]
    if refused:
        state = State.FAILED
    elif code:
        state = State.CANCELED if code == "canceled" else State.FAILED
        error, finished_at = cut_error(code), record["cut_at"]
    job = Job(id=job_id, model=batch.model, version=batch.version, state=state, created_at=batch.created_at)
    job.deadline_at, job.batch, job.priority = batch.deadline_at, batch.id, batch.priority
    job.request_id = record.get("request_id")
    if error:
        job.error, job.finished_at = Problem.model_validate(orjson.loads(error)), from_ms(finished_at)
    return job


def _pairs(flat: list[Any]) -> list[tuple[bytes, bytes]]:
    """Of members and their scores, as the server gives them in one list (RESP2) or as lists of two (RESP3)."""
    if flat and isinstance(flat[0], list):
        return [(name, score) for name, score in flat]
    return list(zip(flat[::2], flat[1::2], strict=True))
