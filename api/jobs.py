"""JobService: submit, get, wait, cancel. Every face goes through it; a face only translates."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from prometheus_client import Counter, Gauge
from starlette.types import Receive

from api.auth import Caller
from api.backlog import refused, too_many
from api.durable import Durable
from api.errors import CallerGone
from api.fallback import Fallbacks
from api.inputs import InInput, InputCheck
from api.intake import Intake, Taken
from api.pauses import Pauses
from api.payloads import ApiPayloads, Stowed
from api.presence import Presence
from api.rates import OF_MODEL, RateLimiter
from api.registry import LiveRegistry
from api.submission import NewJob, Submission, Target, Ticket, compose
from api.submitter import Command, Submitter, refusal
from api.waiter import News, Waiter, Waiting, until_gone
from api.waits import wait_of
from shared import origin, scripts, tracing
from shared.catalog import Ref
from shared.errors import (
    Fault,
    Forbidden,
    IdempotencyMismatch,
    InvalidInput,
    PayloadsUnavailable,
    RateLimited,
    ServiceError,
    StoreUnavailable,
    UnknownJob,
)
from shared.keys import queue_name
from shared.origin import Carried
from shared.outcomes import job_view, stored_output
from shared.payload_place import PayloadRef
from shared.scripts_payloads import free
from shared.settings import Settings
from shared.types import Job, State, Wait

# A line of a batch that is no job yet, or never was one; None: it is one. Raises UnknownJob.
Lines = Callable[[str, Caller], Awaitable[Job | None]]


# So long nobody looks whether the caller is still there: a task for it costs more than what is answered sooner.
_UNWATCHED_S = 0.1


class _Outdated(Exception):
    """The models have changed since the version was chosen: nothing was accepted."""


class JobService:
    """For one event loop. All methods raise StoreUnavailable when Redis is away or takes no writes."""

    def __init__(
        self,
        settings: Settings,
        registry: LiveRegistry,
        submitter: Submitter,
        waiter: Waiter,
        presence: Presence,
        *,
        pauses: Pauses,
        fallbacks: Fallbacks,
        rates: RateLimiter,
        intake: Intake,
        payloads: ApiPayloads,
        durable: Durable | None,
        waits: Gauge,
        accepted: Counter,
        lines: Lines,
    ) -> None:
        self._lines = lines
        self._waits, self._accepted = waits, accepted
        self._settings = settings
        self._registry = registry
        self._submitter = submitter
        self._waiter = waiter
        self._presence = presence
        self._pauses, self._fallbacks = pauses, fallbacks
        self._rates = rates
        self._intake, self._payloads = intake, payloads
        self._durable = durable
        self._callable = settings.outbound_rules()

    async def submit(self, new: NewJob, *, wait: bool = False) -> Ticket:
        """Check and accept a job, for the model that is asked for or its fallback. With `wait` the ticket must go to
        `wait`, which then sees to its durability. Raises UnknownModel, InvalidInput (faults point into the input, or
        begin with /parameters), TooLarge, QueueFull, DeadlineImpossible, IdempotencyMismatch, RateLimited, Forbidden,
        AddressRefused."""
        refuse_foreign(new)
        while True:
            try:
                return await self._fallbacks.submit(new, partial(self._submit, new, wait=wait))
            except _Outdated:  # by what there is now it may be another version, or none
                await self._registry.refresh()

    async def _submit(self, new: NewJob, target: Target, *, wait: bool) -> Ticket:
        webhook = new.webhook.record(self._callable) if new.webhook else ""
        check = await self._presence.input_check(target.ref)
        taken = await self._take(new, target, check)
        stowed = await self._payloads.stow(taken.detached)
        job_id = str(uuid.uuid4())
        waiting = self._waiter.expect(job_id) if wait else None
        span = submit_span(job_id, target.ref)
        try:
            channel = self._waiter.channel if waiting else ""
            carried = Carried(origin.current().request_id, span.context)
            asked = compose(
                job_id,
                new,
                target,
                detached=taken.detached,
                stowed=stowed,
                settings=self._settings,
                channel=channel,
                items=taken.items,
                carried=carried,
                webhook=webhook,
            )
            ticket = await self._accept(asked, new, waiting)
        except BaseException as error:
            if waiting:
                self._waiter.forget(job_id, waiting)
            span.fail(error.code if isinstance(error, ServiceError) else type(error).__name__)
            raise
        finally:
            span.end()
        if waiting and ticket.job_id != job_id:
            self._waiter.forget(job_id, waiting)
            job, waiting = await self.follow(ticket.job_id, new.caller)
            created_at = int(job.created_at.timestamp() * 1000)
            ref, asked_for = Ref(job.model, job.version), job.fallback_for or ""
            return Ticket(job.id, ref, False, created_at, waiting=waiting, fallback_for=asked_for)
        if not wait:
            await self._make_sure(ticket.job_id)
        return ticket

    async def _take(self, new: NewJob, target: Target, check: InputCheck) -> Taken:
        model, limits = target.ref.model, target.spec.limits
        most = limits.input_bytes
        taken = await self._intake.take(
            new.input,
            target.parameters,
            check,
            new.caller,
            most_bytes=most,
            files=new.files,
            references=new.references,
        )
        if model not in new.admitted:
            await self._admit(new, target, taken)
        if taken.urls:
            size = await self._intake.fetch(taken, new.fetched, most_bytes=most)
            await self._rates.admit(new.caller, model, limits, requests=0, items=0, size=size)
        return taken

    async def _admit(self, new: NewJob, target: Target, taken: Taken) -> None:
        """Count it: once by its caller's own limits, whichever models it is sent to."""
        model, limits, own = target.ref.model, target.spec.limits, not new.counted
        size = taken.detached.size
        try:
            told = await self._rates.admit(new.caller, model, limits, items=taken.items, size=size, own=own)
        except RateLimited as error:
            new.counted = all(policy.startswith(OF_MODEL) for policy in error.policies)
            raise
        new.counted = True
        new.admitted.add(model)
        if own:
            new.headers.update(told)

    async def _make_sure(self, job_id: str) -> None:
        if self._durable is not None:
            await self._durable.holds(job_id)

    async def _accept(self, asked: Submission, new: NewJob, waiting: Waiting | None) -> Ticket:
        try:
            *sets, submitted = await self._submitter.run(*asked.calls)
        except StoreUnavailable:
            raise StoreUnavailable(
                "Redis did not answer: the job may or may not have been accepted; with an Idempotency-Key it is safe "
                "to send it again"
            ) from None
        accepted = isinstance(submitted, scripts.Submitted) and submitted.job_id == asked.job_id
        broken = next((reply for reply in sets if isinstance(reply, Exception)), None)
        if (asked.payload_keys or asked.stowed.own) and (broken or not accepted):
            # Not accepted, or accepted without its input: leave nothing behind.
            undo: list[Any] = [Command("UNLINK", *asked.payload_keys)] if asked.payload_keys else []
            await self._submitter.run(*undo, scripts.cancel(asked.job_id) if accepted else free(asked.stowed.own))
        if isinstance(submitted, Exception):
            raise refusal(submitted)
        if broken:
            raise refusal(broken)
        if submitted.status == "mismatch":
            raise IdempotencyMismatch
        if submitted.status == "outdated":
            raise _Outdated
        if submitted.status == "gone":
            raise _gone(submitted.lost, asked.stowed)
        if submitted.status == "busy":
            limit = asked.share.concurrent if submitted.limit == "concurrent" else asked.share.model_concurrent
            raise too_many(submitted, limit)
        if submitted.status in ("full", "late"):
            raise refused(asked.target.ref, submitted, asked.deadline_ms, asked.target.spec.limits.queue)
        # `existing` with our own id: the connection broke after the first try, and the second found the job.
        origin.about(submitted.job_id)
        if accepted:
            self._accepted.labels(asked.target.ref.model, asked.target.ref.version).inc()
        return Ticket(
            submitted.job_id,
            asked.target.ref,
            accepted,
            submitted.created_at,
            submitted.deadline_at,
            labels=new.labels,
            priority=new.priority,
            waiting=waiting if accepted else None,
            request_id=asked.carried.request_id,
            fallback_for=asked.target.fallback_for if accepted else "",
        )

    async def get(self, job_id: str, caller: Caller) -> Job:
        """Raises UnknownJob, also for another's."""
        return await self._shown(job_id, scripts.watch(job_id), caller)

    async def listen(self, job_id: str, caller: Caller) -> Job:
        """The job, of whose start, progress and end this process is told from now on. As `get`."""
        call = scripts.watch(job_id, channel=self._waiter.channel, listen=True)
        return await self._shown(job_id, call, caller)

    async def _shown(self, job_id: str, look: scripts.Call[scripts.Seen], caller: Caller) -> Job:
        seen: scripts.Seen = await self._submitter.one(look)
        if not seen.record:
            if line := await self._lines(job_id, caller):
                return line
            seen = await self._submitter.one(look)  # it has begun between the two looks
        job = await self._view(job_id, seen, caller)
        if job.state is State.QUEUED:
            if "delayed" in seen.record:
                job.waiting_for = Wait(code="start", message="its start: it was sent with a countdown or an eta")
            else:
                with contextlib.suppress(StoreUnavailable):  # the job itself is known
                    paused = job.model in await self._pauses.read()
                    job.waiting_for = wait_of(job, await self._presence.workers(), paused=paused)
        return job

    async def _view(self, job_id: str, seen: scripts.Seen, caller: Caller) -> Job:
        if not seen.record or not caller.owns(seen.record.get("owner")):
            raise UnknownJob
        origin.about(job_id)  # only now: before, it is whatever a caller has written in the path
        job = job_view(job_id, seen.record, seen.meta)
        if job.output_url is not None and (ref := stored_output(seen.meta)) is not None:
            job.output_url = await self._payloads.url(ref) or job.output_url
        return job

    async def for_output(self, job_id: str, caller: Caller) -> tuple[Job, PayloadRef | None]:
        """A job, and where its output lies if not in the job. Raises UnknownJob, also for another's."""
        seen: scripts.Seen = await self._submitter.one(scripts.watch(job_id))
        return await self._view(job_id, seen, caller), stored_output(seen.meta)

    async def stored(self, meta: bytes) -> bytes | None:
        """The output, as JSON, of an outcome that has it in the payload store; None: it is in the outcome itself.
        Raises PayloadsUnavailable, RecordUnreadable for one that is gone."""
        ref = stored_output(meta)
        return None if ref is None else await self._payloads.get(ref)

    async def outcome(self, job_id: str) -> bytes:
        """The outcome of a job that has ended, as stored. Raises UnknownJob."""
        seen: scripts.Seen = await self._submitter.one(scripts.watch(job_id))
        if not seen.meta:
            raise UnknownJob
        return seen.meta

    async def follow(self, job_id: str, caller: Caller) -> tuple[Job, Waiting]:
        """The job now, and a place in the waiter that must go to `wait`. Raises UnknownJob, also for another's."""
        waiting = self._waiter.expect(job_id)
        try:
            watch = scripts.watch(job_id, channel=self._waiter.channel)
            seen = await self._submitter.one(watch)
            if not seen.record:
                if line := await self._lines(job_id, caller):
                    if line.state.terminal:
                        waiting.set_result(None)
                    return line, waiting  # the waiter looks again until it has begun
                seen = await self._submitter.one(watch)
            job = await self._view(job_id, seen, caller)
        except BaseException:
            self._waiter.forget(job_id, waiting)
            raise
        if job.state.terminal and not waiting.done():
            waiting.set_result(News(job.state, int(seen.record["finished_at"]), seen.meta))
        return job, waiting

    async def wait(self, job_id: str, waiting: Waiting, timeout_s: float, receive: Receive) -> News | None:
        """The job's end, or None when the time is over or the process drains: the job is as durable then as one that
        nobody waited for. Raises CallerGone."""
        try:
            with self._waits.track_inprogress(), _sure_to_end(waiting, timeout_s, receive):
                news = await waiting
            if news is not None:
                return news
            await self._make_sure(job_id)
            return None
        finally:
            self._waiter.forget(job_id, waiting)

    async def cancel(self, job_id: str, caller: Caller) -> Job:
        """The job after the cancel: canceled if it was queued, unchanged if it had ended, still running if a worker
        has it (it ends as canceled with its batch). Raises UnknownJob, also for another's."""
        await self.get(job_id, caller)
        # Two round trips: after a Redis restart an unknown script is run behind its neighbours.
        await self._submitter.one(scripts.cancel(job_id))
        return await self.get(job_id, caller)

    async def abandon(self, job_id: str, *, running: bool = False) -> bool:
        """The one caller of a waiting face has gone: cancel what is still queued, or with `running` what runs, and has
        no other interest. Whether it was queued until now."""
        if self._waiter.awaited(job_id):
            return False
        call = scripts.cancel(job_id, abandoned_by=self._waiter.channel, running=running)
        return bool(await self._submitter.one(call) is State.QUEUED)


@contextlib.contextmanager
def _sure_to_end(waiting: Waiting, timeout_s: float, receive: Receive) -> Iterator[None]:
    """Meanwhile `waiting` is sure to end: with None when the time is over, with CallerGone when nobody waits any more.
    (Two timers cost less than asyncio's own ways to wait for the first of several, and most jobs end before them.)"""
    loop, watching = asyncio.get_running_loop(), contextlib.ExitStack()

    def over() -> None:
        if not waiting.done():
            waiting.set_result(None)

    def gone(watch: asyncio.Task[None]) -> None:
        if watch.cancelled():
            return
        watch.exception()  # however it has ended, nobody is there
        if not waiting.done():
            waiting.set_exception(CallerGone())

    def look() -> None:
        watch = loop.create_task(until_gone(receive))
        watch.add_done_callback(gone)
        watching.callback(watch.cancel)

    with watching:
        watching.callback(loop.call_later(timeout_s, over).cancel)
        watching.callback(loop.call_later(_UNWATCHED_S, look).cancel)
        yield


def refuse_foreign(new: NewJob) -> None:
    """Before it is looked up: whether there is such a model is not told either."""
    name = new.model.partition("@")[0]
    if not new.caller.may_use(name):
        assert new.caller.key is not None  # noqa: S101  # anybody may use all
        own = ", ".join(sorted(new.caller.key.models or ()))
        raise Forbidden(f"this API key may not use {name!r}; its models: {own or 'none'}")


def _gone(lost: str, stowed: Stowed) -> ServiceError:
    """Between its look-up and the submit."""
    if lost in stowed.files:
        message = "the file was deleted, or has expired, meanwhile"
        return InInput([Fault(pointer=stowed.files[lost], message=message)])
    return PayloadsUnavailable("a part of the input is not in the payload store any more; nothing was accepted")


def submit_span(job_id: str, ref: Ref) -> tracing.Span:
    """Of what is submitted; to be ended."""
    if not tracing.on():
        return tracing.Span(tracing.current().context)
    queue = queue_name(ref.model, ref.version)
    told = tracing.messaging("submit", "send", queue, job_id) | {"ml.model": ref.model, "ml.version": ref.version}
    return tracing.start(f"submit {queue}", "PRODUCER", parent=tracing.current(), attributes=told)


def prefixed(error: InvalidInput, field_name: str) -> InvalidInput:
    """The error with its pointers into the request's body: those of the input lie under `/<field_name>`."""
    if not isinstance(error, InInput):
        return error
    faults = [Fault(pointer=f"/{field_name}{f.pointer}", code=f.code, message=f.message) for f in error.faults]
    return InvalidInput(error.message, faults=faults)
