"""How a batch comes in: slice after slice, each read in a thread and stored in one round trip, with nothing of it run
or seen before the last has come. What breaks off in between leaves nothing behind: it is dropped at once, or, where
this process dies, when its lease is over (`batch_step`)."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass, field
from typing import Any

import orjson

from api.batch_intake import REFUSED, Reader, Slice
from api.batch_lines import Raw, Slices
from api.bodies import has_references
from api.inputs import InputCheck
from api.intake import Intake
from api.jobs import refuse_foreign, submit_span
from api.payloads import ApiPayloads
from api.presence import Presence
from api.rates import RateLimiter
from api.registry import LiveRegistry
from api.submission import NewJob, share_of
from api.submitter import Command, Submitter, refusal
from shared import keys, messages, origin
from shared.catalog import Ref
from shared.errors import (
    Fault,
    IdempotencyMismatch,
    InvalidInput,
    RequestTimeout,
    ServiceError,
    StoreUnavailable,
)
from shared.model_spec import ModelSpec
from shared.origin import Carried
from shared.scripts_batches import Sealed, append_lines, drop_batch, open_batch, seal_batch
from shared.settings import Settings

_LEASE_MS = 600_000  # between two slices; on a slow line one takes two minutes
_REFERRING = 8  # lines at a time, where some name files or URLs


@dataclass(slots=True)
class Sent:
    """What has come of a batch. `record`: what is known of it without asking Redis again, once it is accepted."""

    batch_id: str
    ref: Ref
    etag: str
    deadline_ms: int
    ttl_ms: int
    total: int = 0
    refused: int = 0
    items: int = 0
    size: int = 0
    record: dict[str, str] = field(default_factory=dict)


class Uploads:
    """For one event loop. Raises StoreUnavailable when Redis is away or takes no writes."""

    def __init__(
        self,
        settings: Settings,
        registry: LiveRegistry,
        submitter: Submitter,
        presence: Presence,
        *,
        rates: RateLimiter,
        intake: Intake,
        payloads: ApiPayloads,
    ) -> None:
        self._settings = settings
        self._registry, self._catalog = registry, registry.catalog
        self._submitter, self._presence, self._rates = submitter, presence, rates
        self._intake, self._payloads = intake, payloads
        self._callable = settings.outbound_rules()
        self._dropping: set[asyncio.Task[None]] = set()

    async def accept(self, new: NewJob, slices: Slices) -> tuple[Sent, str]:
        """Take a batch in; what was sent, and the id of the batch that now stands for it: its own, or that of an
        earlier call with the same Idempotency-Key. Raises what JobService.submit does for faults of the whole
        (QueueFull and DeadlineImpossible never), RequestTimeout, and what `slices` raises."""
        refuse_foreign(new)
        webhook = new.webhook.record(self._callable) if new.webhook else ""
        etag = self._catalog.etag
        ref = self._catalog.resolve(new.model, new.version, sticky=new.sticky)
        spec = self._catalog.spec(ref.model)
        check = await self._presence.input_check(ref)
        check.check_parameters(new.parameters)
        new.headers.update(await self._rates.admit(new.caller, ref.model, spec.limits, items=0, size=0))
        batch_id = f"batch_{uuid.uuid4().hex}"
        deadline_s = new.deadline_s or self._settings.default_deadline_s
        ttl_s = new.result_ttl_s or self._settings.result_ttl_s
        sent = Sent(batch_id, ref, etag, int(deadline_s * 1000), int(ttl_s * 1000))
        reader = Reader(
            batch_id,
            check,
            new.parameters,
            longest=self._settings.max_body_bytes,
            input_bytes=spec.limits.input_bytes,
            inline_bytes=self._settings.inline_bytes,
        )
        span = submit_span(batch_id, ref)
        patience = asyncio.timeout(self._settings.batch_upload_s)
        try:
            carried = Carried(origin.current().request_id, span.context)
            await self._open(sent, new, spec, carried, webhook)
            async with patience:
                await self._send(sent, new, spec, reader, slices)
            sealed = await self._seal(sent, new, reader)
        except BaseException as error:
            self._drop(sent)
            span.fail(error.code if isinstance(error, ServiceError) else type(error).__name__)
            if isinstance(error, TimeoutError) and patience.expired():
                raise RequestTimeout(
                    f"a batch must be here within {self._settings.batch_upload_s:g} s; nothing of it was accepted"
                ) from None
            raise
        finally:
            span.end()
        if sealed != batch_id:
            self._drop(sent)
        origin.about(sealed)
        return sent, sealed

    async def close(self) -> None:
        """Returns when what broke off is dropped."""
        await asyncio.gather(*self._dropping)

    async def _open(self, sent: Sent, new: NewJob, spec: ModelSpec, carried: Carried, webhook: str) -> None:
        made_of, fields = composed(sent, new, spec, carried, self._settings)
        if webhook:
            fields["webhook"] = webhook
        sent.record = {name: str(value) for name, value in fields.items()}
        await self._submitter.one(
            open_batch(sent.batch_id, ref=str(sent.ref), lease_ms=_LEASE_MS, made_of=made_of, fields=fields)
        )

    async def _send(self, sent: Sent, new: NewJob, spec: ModelSpec, reader: Reader, slices: Slices) -> None:
        async for raws in slices:
            # What files and URLs lead to is larger than their names: fewer of them at a time.
            step = _REFERRING if any(raw and has_references(raw) for raw in raws) else len(raws)
            for at in range(0, len(raws), step):
                await self._take_in(sent, new, spec, reader, raws[at : at + step])
        if not sent.total:
            raise InvalidInput(faults=[Fault(pointer="/inputs", message="a batch needs at least one input")])

    async def _take_in(self, sent: Sent, new: NewJob, spec: ModelSpec, reader: Reader, raws: list[Raw]) -> None:
        found = await asyncio.to_thread(reader.read, sent.total, raws)
        if found.referring:
            check = await self._presence.input_check(sent.ref)
            resolving = (self._resolve(found, new, spec, check, number) for number in found.referring)
            await asyncio.gather(*resolving)
        told = await self._rates.admit(
            new.caller,
            sent.ref.model,
            spec.limits,
            items=found.items,
            size=found.size,
            requests=0,
            before={"items": sent.items, "bytes": sent.size},
        )
        new.headers.update(told)
        try:
            for number in list(found.parted):
                found.stow(number, await self._payloads.stow(found.parted[number].detached))
            await self._append(sent, found)
        except BaseException:
            await self._payloads.free(found.stored)  # of the lines that are in, `drop_batch` finds them
            raise
        sent.total += len(raws)
        sent.refused += len(found.refused)
        sent.items += found.items
        sent.size += found.size

    async def _resolve(self, found: Slice, new: NewJob, spec: ModelSpec, check: InputCheck, number: int) -> None:
        most = spec.limits.input_bytes
        try:
            value = found.referring[number]
            taken = await self._intake.take(value, new.parameters, check, new.caller, most_bytes=most)
            if taken.urls:
                await self._intake.fetch(taken, {}, most_bytes=most)
        except REFUSED as error:
            found.refuse(number, error)
        else:
            found.take(number, taken)

    async def _append(self, sent: Sent, found: Slice) -> None:
        # Longer than the batch can live, whenever it is accepted: no second pass over all of them is needed then.
        life_ms = int(self._settings.batch_upload_s * 1000) + sent.deadline_ms + sent.ttl_ms
        sets: list[Any] = [Command("SET", key, part, "PX", life_ms) for key, part in found.payloads]
        append = append_lines(
            sent.batch_id,
            first=sent.total,
            lines=sorted(found.lines, key=lambda line: line.number),
            refused=found.refused,
            payloads=len(found.payloads) + found.stored_count,
            lease_ms=_LEASE_MS,
            life_ms=life_ms,
        )
        *stored, appended = await self._submitter.run(*sets, append)
        broken = next((reply for reply in (*stored, appended) if isinstance(reply, Exception)), None)
        if broken is None and appended is True:
            return
        if found.payloads and appended is not True:
            await self._submitter.run(Command("UNLINK", *(key for key, _ in found.payloads)))
        raise refusal(broken) if broken else StoreUnavailable("the batch was dropped: its lines came too slowly")

    async def _seal(self, sent: Sent, new: NewJob, reader: Reader) -> str:
        asked: list[Any] = [new.model, new.version, new.sticky, new.parameters, new.priority, new.deadline_s]
        asked += [new.result_ttl_s, new.labels, new.webhook and new.webhook.model_dump()]
        fingerprint = await asyncio.to_thread(reader.fingerprint, asked)
        while True:
            try:
                sealed: Sealed = await self._submitter.one(
                    seal_batch(
                        sent.batch_id,
                        total=sent.total,
                        deadline_ms=sent.deadline_ms,
                        ttl_ms=sent.ttl_ms,
                        owner=new.caller.owner,
                        etag=sent.etag,
                        # Not where jobs have theirs: no header value has a line feed.
                        idempotency=f"batch\n{new.caller.owner}:{new.idempotency_key}" if new.idempotency_key else "",
                        fingerprint=fingerprint,
                    )
                )
            except StoreUnavailable:
                raise StoreUnavailable(
                    "Redis did not answer: the batch may or may not have been accepted; with an Idempotency-Key it is "
                    "safe to send it again"
                ) from None
            if sealed.status == "outdated":
                # The version was chosen when the batch began to come; now it must only be there still.
                await self._registry.refresh()
                sent.etag = self._catalog.etag
                self._catalog.resolve(sent.ref.model, sent.ref.version)
            elif sealed.status == "mismatch":
                raise IdempotencyMismatch
            elif sealed.status == "gone":
                raise StoreUnavailable("the batch was dropped: its lines came too slowly, or Redis has lost them")
            else:
                known = {"total": sent.total, "failed": sent.refused, "created_at": sealed.created_at}
                known["deadline_at"] = sealed.created_at + sent.deadline_ms
                known["expires_at"] = known["deadline_at"] + sent.ttl_ms
                sent.record |= {"state": "queued"} | {name: str(value) for name, value in known.items()}
                return sealed.batch_id

    def _drop(self, sent: Sent) -> None:
        task = asyncio.create_task(self._drop_all(sent))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)

    async def _drop_all(self, sent: Sent) -> None:
        with contextlib.suppress(StoreUnavailable):  # then its lease sees to it
            while await self._submitter.one(drop_batch(sent.batch_id, ref=str(sent.ref))):
                pass


def composed(
    sent: Sent, new: NewJob, spec: ModelSpec, carried: Carried, settings: Settings
) -> tuple[messages.Template, dict[str, str | int]]:
    """What the jobs of its lines are made of: their messages, and the fields of the batch's record."""
    ref, share = sent.ref, share_of(new.caller, spec, sent.ref)
    queue, priority = keys.queue_name(ref.model, ref.version), keys.PRIORITY_NAMES[new.priority]
    made_of = messages.template(
        queue=queue,
        priority=priority,
        model=ref.model,
        version=ref.version,
        parameters=new.parameters,
        owner=share.owner,
        weight=share.weight,
        carried=carried.headers(),
    )
    line_fields: dict[str, str | int] = {
        "batch": sent.batch_id,
        "model": ref.model,
        "version": ref.version,
        "priority": priority,
        "timeout_ms": int(spec.limits.timeout_s * 1000),
        "dead_ttl_ms": int(settings.dead_ttl_s * 1000),
        "owner": new.caller.owner,
        **({"weight": share.weight} if share.weight > 1 else {}),
        **({"request_id": carried.request_id} if carried.request_id else {}),
    }
    return made_of, {
        "model": ref.model,
        "version": ref.version,
        "priority": priority,
        "labels": orjson.dumps(new.labels).decode(),
        "owner": new.caller.owner,
        "list": keys.queue_list(queue, priority),
        "window": settings.batch_window,
        "max_jobs": spec.limits.queue,
        "max_bytes": spec.limits.queue_bytes,
        "concurrent": share.concurrent,
        "model_concurrent": share.model_concurrent,
        "refs": "".join(f"{name}\n" for name in share.refs),
        "line_fields": orjson.dumps([str(part) for item in line_fields.items() for part in item]).decode(),
        **carried.fields(),
    }
