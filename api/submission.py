"""From a checked job to the Redis calls that accept it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from api.auth import ANYBODY, Caller
from api.payloads import Fetched, FilePart, Stowed
from api.submitter import Command
from api.waiter import Waiting
from shared import keys, messages, scripts
from shared.catalog import Ref
from shared.model_spec import ModelSpec
from shared.origin import Carried
from shared.payloads import WHOLE, Detached
from shared.settings import Settings
from shared.types import Job, State, from_ms
from shared.webhooks import BatchWebhook, JobWebhook


@dataclass(slots=True)
class NewJob:
    """What a caller asks for, as read from the request. `files` are uploaded parts of the input by field name;
    `picked`: the face has picked the version, by the traffic."""

    model: str
    input: Any = None
    version: str | None = None
    picked: bool = False
    sticky: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    priority: keys.PriorityName = "normal"
    deadline_s: float | None = None
    result_ttl_s: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    webhook: JobWebhook | BatchWebhook | None = None
    files: list[tuple[str, bytes]] = field(default_factory=list)
    references: bool = False  # the input may name files or URLs
    fetched: dict[str, Fetched] = field(default_factory=dict)  # by URL
    caller: Caller = ANYBODY
    idempotency_key: str | None = None
    counted: bool = False  # by its caller's own rate limits
    admitted: set[str] = field(default_factory=set)  # by the limits of these models too
    headers: dict[str, str] = field(default_factory=dict)  # of the answer, whatever it is

    @property
    def pinned(self) -> bool:
        """Its caller wants this version and no other."""
        return "@" in self.model or (self.version is not None and not self.picked)


@dataclass(frozen=True, slots=True)
class Target:
    """A version that a job may go to, and the parameters for it. `etag`: the registry's that it was chosen by;
    `fallback_for`: the model that was asked for, where this is of its fallback."""

    ref: Ref
    spec: ModelSpec
    etag: str
    parameters: dict[str, Any]
    fallback_for: str = ""


@dataclass(frozen=True, slots=True)
class Ticket:
    """An accepted job. `fresh`: this call made it. `created_at` and `deadline_at` (ms) are 0 where a lost connection
    has kept them from us. `waiting`: the caller's place in the waiter, if it waits."""

    job_id: str
    ref: Ref
    fresh: bool
    created_at: int = 0
    deadline_at: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    priority: keys.PriorityName = "normal"
    waiting: Waiting | None = None
    request_id: str = ""
    fallback_for: str = ""

    def used(self, asked: str) -> str:
        """The model that has the job, as a face tells it whose caller `asked` for one."""
        return self.ref.model if self.fallback_for else asked

    def as_queued(self) -> Job | None:
        """The job as it was when it was accepted, without asking Redis again. None: another call made it."""
        if not (self.fresh and self.created_at):
            return None
        created_at = datetime.fromtimestamp(self.created_at / 1000, UTC)
        job = Job(
            id=self.job_id, model=self.ref.model, version=self.ref.version, state=State.QUEUED, created_at=created_at
        )
        job.deadline_at, job.labels, job.priority = from_ms(self.deadline_at), self.labels, self.priority
        job.request_id, job.fallback_for = self.request_id or None, self.fallback_for or None
        return job


@dataclass(frozen=True, slots=True)
class Submission:
    """`calls` go in one round trip: the payloads' SETs, and `submit` as the last."""

    job_id: str
    target: Target
    deadline_ms: int
    share: scripts.Share
    payload_keys: list[str]
    stowed: Stowed
    calls: list[scripts.Call[Any]]
    carried: Carried


def compose(
    job_id: str,
    new: NewJob,
    target: Target,
    *,
    detached: Detached,
    stowed: Stowed,
    settings: Settings,
    channel: str,
    items: int,
    carried: Carried,
    webhook: str = "",
) -> Submission:
    """`stowed` tells where the parts of `detached` are; `channel` is the waiting process's, or empty; `items` how
    many the input has; `carried` goes with the job; `webhook` is the record's field."""
    ref, spec = target.ref, target.spec
    share = share_of(new.caller, spec, ref)
    deadline_ms = int((new.deadline_s or settings.default_deadline_s) * 1000)
    ttl_ms = int((new.result_ttl_s or settings.result_ttl_s) * 1000)
    payload_keys = [keys.payload_key(job_id, number) for number in range(len(stowed.rest))]
    place = _place(ref, new.priority)
    raw = messages.build(
        job_id,
        queue=place.queue,
        priority=place.priority,
        model=ref.model,
        version=ref.version,
        input=detached.input,
        parameters=target.parameters,
        payloads=detached.pointers,
        stored=stowed.refs,
        owner=share.owner,
        weight=share.weight,
        items=items,
        carried=carried.headers(),
    )
    submit = scripts.submit(
        job_id,
        list_name=place.list_name,
        raw=raw,
        ref=str(ref),
        deadline_ms=deadline_ms,
        ttl_ms=ttl_ms,
        size=detached.size - stowed.size,
        max_jobs=spec.limits.queue,
        max_bytes=spec.limits.queue_bytes,
        channel=channel,
        ahead=place.ahead,
        after=place.after,
        etag=target.etag,
        share=share,
        idempotency=f"{new.caller.owner}:{new.idempotency_key}" if new.idempotency_key else "",
        fingerprint=_fingerprint(new, detached) if new.idempotency_key else "",
        fields={
            "model": ref.model,
            "version": ref.version,
            "priority": place.priority,
            "timeout_ms": int(spec.limits.timeout_s * 1000),
            "payloads": len(stowed.rest),
            "dead_ttl_ms": int(settings.dead_ttl_s * 1000),
            "labels": orjson.dumps(new.labels).decode(),
            "owner": new.caller.owner,
            **({"fallback_for": target.fallback_for} if target.fallback_for else {}),
            **({"items": items} if items > 1 else {}),
            **({"weight": share.weight} if share.weight > 1 else {}),
            **stowed.fields(),
            **({"webhook": webhook} if webhook else {}),
            **carried.fields(),
        },
    )
    pairs = zip(payload_keys, stowed.rest, strict=True)
    sets = [Command("SET", key, part, "PX", deadline_ms + ttl_ms) for key, part in pairs]
    return Submission(job_id, target, deadline_ms, share, payload_keys, stowed, [*sets, submit], carried)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the jobs of one version and priority wait; `ahead` and `after` as in `scripts.submit`."""

    queue: str
    priority: int
    list_name: str
    ahead: list[str]
    after: list[str]


@lru_cache(maxsize=1024)
def _place(ref: Ref, name: keys.PriorityName) -> _Place:
    queue, priority = keys.queue_name(ref.model, ref.version), keys.PRIORITY_NAMES[name]
    ahead, after = keys.urgent_lists(queue, priority), keys.patient_lists(queue, priority)
    return _Place(queue, priority, keys.queue_list(queue, priority), ahead, after)


def share_of(caller: Caller, spec: ModelSpec, ref: Ref) -> scripts.Share:
    """Of the caller's key; none without one."""
    if caller.key is None:
        return scripts.NO_SHARE
    refs = [f"{ref.model}@{version}" for version in spec.versions]
    own, here = caller.key.limits.concurrent, spec.limits.per_key.concurrent
    return scripts.Share(caller.key.id, caller.key.weight, own or 0, here or 0, refs)


def _fingerprint(new: NewJob, detached: Detached) -> str:
    """Of what was asked for, not of what came of it (the version by traffic weights may differ next time)."""
    asked = [
        new.model,
        new.version,
        new.sticky,
        new.parameters,
        new.priority,
        new.deadline_s,
        new.result_ttl_s,
        new.labels,
        *([new.webhook.model_dump()] if new.webhook else ()),
    ]
    digest = hashlib.sha256(_canonical([*asked, detached.input, detached.pointers]))
    for part, where in zip(detached.parts, detached.pointers, strict=True):
        digest.update(_digest(part, where))
    return digest.hexdigest()


def _digest(part: bytes, where: str) -> bytes:
    if isinstance(part, FilePart):
        return bytes.fromhex(part.sha256)
    if isinstance(part, Fetched):  # what it leads to may differ next time
        return hashlib.sha256(part.url.encode()).digest()
    # The input's own JSON may have its fields in another order.
    return hashlib.sha256(_canonical(orjson.loads(part)) if where == WHOLE else part).digest()


def _canonical(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
