"""The scripts: the product's real interface to Redis. One function a script, here and in the modules scripts_*.py
beside this one; shared/calls.py makes the calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from shared import keys
from shared.calls import Call, arun, iso_now, one, run, run_on, script
from shared.messages import VERSION
from shared.scripts_finish import End, Finished, Usage, finish, finish_all, finish_some
from shared.types import State

__all__ = ["Call", "arun", "iso_now", "one", "run", "run_on"]  # beside what stands here
__all__ += ["End", "Finished", "Usage", "finish", "finish_all", "finish_some"]


@dataclass(frozen=True, slots=True)
class Submitted:
    """`status` accepted: a new job; existing: the idempotency key's job; mismatch: that key with another payload;
    full: the model's limits (then `jobs` and `size` are what waits, `wait_ms` how long it takes, 0 where that is not
    known); late: its turn would come in `wait_ms`, after its deadline; busy: its owner has `jobs` under way
    and may have no more, by its limit `limit`; gone: `lost` (a reference, or a file's id) is not there any more;
    outdated: the registry is not the one that the version was chosen by, so choose again."""

    status: Literal["accepted", "existing", "mismatch", "full", "late", "busy", "gone", "outdated"]
    job_id: str = ""
    created_at: int = 0
    deadline_at: int = 0
    jobs: int = 0
    size: int = 0
    wait_ms: int = 0
    limit: str = ""
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """Of a key, whose jobs take turns with those of others. `concurrent`: jobs it may have under way, of all models,
    and `model_concurrent` of this one, whose versions are `refs`; 0: any number."""

    owner: str
    weight: int = 1
    concurrent: int = 0
    model_concurrent: int = 0
    refs: Sequence[str] = ()


NO_SHARE = Share("")


def submit(
    job_id: str,
    *,
    list_name: str,
    raw: bytes,
    ref: str,
    deadline_ms: int,
    ttl_ms: int,
    size: int,
    max_jobs: int,
    max_bytes: int,
    channel: str = "",
    idempotency: str = "",
    fingerprint: str = "",
    ahead: Sequence[str] = (),
    after: Sequence[str] = (),
    etag: str = "",
    share: Share = NO_SHARE,
    fields: dict[str, str | int] | None = None,
) -> Call[Submitted]:
    """Accept a job. `share` is its key's; the record's field `owner` must name the same. `ahead` are the lists of
    its queue that are served before its own, `after` those after it; `etag` is the registry's that its version was
    chosen by; `fields` are further fields of the record (model, version, labels as JSON, payloads ...)."""
    limits = (max_jobs, max_bytes)
    what = (job_id, list_name, raw, ref, deadline_ms, ttl_ms, size)
    owned = (share.owner, share.weight, share.concurrent, share.model_concurrent, _lines(share.refs))
    places = (_lines(ahead), _lines(after))
    return Call(
        script("submit"),
        (),
        (*what, *limits, channel, idempotency, fingerprint, *places, etag, *owned, *_pairs(fields)),
        _submitted,
    )


def _lines(names: Sequence[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def _pairs(fields: dict[str, str | int] | None) -> list[str | int]:
    """Fields of a record as the scripts take them: name, value, name, value."""
    return [part for item in (fields or {}).items() for part in item]


def _submitted(reply: list[Any]) -> Submitted:
    status = reply[0].decode()
    if status == "full":
        return Submitted(status, jobs=reply[1], size=reply[2], wait_ms=reply[3])
    if status == "late":
        return Submitted(status, wait_ms=reply[1])
    if status == "busy":
        return Submitted(status, jobs=reply[2], limit=reply[1].decode())
    if status == "gone":
        return Submitted(status, lost=reply[1].decode())
    if status == "accepted":
        return Submitted(status, reply[1].decode(), int(reply[2]), int(reply[3]))
    return Submitted(status, reply[1].decode() if len(reply) > 1 else "")


Adopted = Literal["adopted", "existing", "outdated"]
_ADOPTED: dict[int, Adopted] = {1: "adopted", 0: "existing", -1: "outdated"}


def adopt(
    tag: str,
    job_id: str,
    *,
    list_name: str,
    raw: bytes,
    ref: str,
    deadline_ms: int,
    ttl_ms: int,
    size: int,
    deadline_at: int | None = None,
    start_at: int | None = None,
    etag: str = "",
    fields: dict[str, str | int],
) -> Call[Adopted]:
    """A plain Celery message becomes a job, which waits for its list until `start_at` (ms), and must have ended at
    `deadline_at` or else in `deadline_ms` from then. `etag` as in `submit`."""
    times = ("" if instant is None else instant for instant in (deadline_at, start_at))
    call = (tag, job_id, list_name, raw, ref, deadline_ms, ttl_ms, size, *times)
    return Call(script("adopt"), (), (*call, etag, *_pairs(fields)), lambda reply: _ADOPTED[reply])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a claim says of one job. `state` is told for ended ones; for those to run `started_at` (ms), and
    `queued_at`: since when it had waited, at first; `code` for one that has failed by this very claim."""

    status: Literal["run", "suspect", "ended", "missing", "lost", "paused"]
    attempt: int
    started_at: int = 0
    state: State | None = None
    queued_at: int = 0
    code: str = ""


@dataclass(frozen=True, slots=True)
class Drained:
    """`left`: the lists that hold more; `messages`: (list, raw); `waiting`: the lists of -1 that hold some; `etag`: the
    registry's; `tags`: under which the messages are filed, in their order; `started`: what a claim would say of the one
    job that was taken, if it was started at once."""

    left: list[str]
    messages: list[tuple[str, bytes]]
    waiting: list[str]
    etag: str = ""
    tags: list[bytes] = field(default_factory=list)
    started: Verdict | None = None


def drain(
    lists: Sequence[str], room: Sequence[int], *, process: str, version: int = VERSION, start_as: str = ""
) -> Call[Drained]:
    """`process` takes messages of `lists[i]` until they have `room[i]` items or more (-1: none, but it is told whether
    any wait); those of a newer message version than `version` are parked. `start_as`: the worker's name, where it has
    nothing else to do: one job is claimed in the same step, unless there is something special with it."""
    return Call(
        script("drain"),
        [*lists, *(keys.TURNS + name for name in lists), keys.REGISTRY, keys.PAUSED],
        [*room, process, version, start_as],
        _drained,
    )


def _drained(reply: list[Any]) -> Drained:
    left, waiting, etag, tags, started, *rest = reply
    messages = [(name.decode(), raw) for name, raw in zip(rest[::2], rest[1::2], strict=True)]
    verdict = _verdict(*started) if started else None
    return Drained(_strings(left), messages, _strings(waiting), etag.decode(), tags, verdict)


def claim(
    job_ids: Sequence[str], *, process: str, worker: str, max_attempts: int, solo: bool = False, call: bool = False
) -> Call[list[Verdict]]:
    """`process` is the worker process's own id, `worker` its name. `call`: somebody else is asked, beside what runs."""
    args = [process, worker, max_attempts, "2" if call else "1" if solo else "0", iso_now(), *job_ids]
    return Call(script("claim"), (), args, lambda reply: [_verdict(*verdict) for verdict in reply])


def _verdict(status: bytes, attempt: int, rest: bytes, queued_at: bytes = b"0", code: bytes = b"") -> Verdict:
    if status == b"run":
        return Verdict("run", attempt, int(rest), queued_at=int(queued_at))
    state = State(rest.decode()) if status == b"ended" else None
    return Verdict(cast(Any, status.decode()), attempt, state=state, code=code.decode())


def cancel(job_id: str, *, abandoned_by: str = "", running: bool = False) -> Call[State | None]:
    """The state before, or None for an unknown job. `abandoned_by`: the channel of a caller that has gone; then a job
    that runs is canceled only with `running`."""
    args = [job_id, iso_now(), abandoned_by, "1" if running else ""]
    return Call(script("cancel"), (), args, lambda reply: State(reply.decode()) if reply else None)


@dataclass(frozen=True, slots=True)
class Seen:
    """A job's record (empty: unknown) and its outcome (empty: none yet)."""

    record: dict[str, str]
    meta: bytes


def watch(job_id: str, *, channel: str = "", listen: bool = False) -> Call[Seen]:
    """Read a job, and be told on `channel` when it ends; with `listen` also of its start and its progress."""
    return Call(script("watch"), (), [job_id, channel, "1" if listen else ""], lambda reply: seen(*reply))


def seen(pairs: list[bytes], meta: bytes) -> Seen:
    """A record as a script gives it, and an outcome."""
    flat = [part.decode() for part in pairs]
    return Seen(dict(zip(flat[::2], flat[1::2], strict=True)), meta)


def renew(tags: Sequence[str], *, process: str, sign: bytes, sign_ms: int) -> Call[list[str]]:
    """A worker process's sign of life, which lives for `sign_ms`, and new leases; the tags that are held no more."""
    return Call(script("renew"), (), [process, sign, sign_ms, *tags], _strings)


def restore_expired(*, lease_ms: int, heartbeat_ms: int, limit: int = 1000) -> Call[list[str]]:
    """Put back what dead workers held, and what a worker's signs of life (each `heartbeat_ms`) do not know of; the
    tags. Let the delayed jobs that are due go to their lists. Nothing goes back where nobody has asked for half a
    lease: then all leases begin anew."""
    return Call(script("restore"), (), ["expired", iso_now(), lease_ms, heartbeat_ms, limit], _strings)


def give_back(tags: Sequence[str], *, process: str) -> Call[list[str]]:
    """Put back what `process` holds and will not finish, oldest first; the tags that went."""
    return Call(script("restore"), (), ["given-back", iso_now(), process, *tags], _strings)


def ack(tags: Sequence[str], *, process: str) -> Call[int]:
    """Forget messages that `process` holds and that need no work any more."""
    return Call(script("ack"), (), [process, *tags], int)


def bury(tag: str | bytes, reason: str) -> Call[bool]:
    """A held message that cannot be worked on becomes a dead letter; its job, if it has one, fails."""
    return Call(script("bury"), (), [tag, reason, iso_now()], bool)


def give_back_crashed(tags: Sequence[str], *, process: str) -> Call[list[str]]:
    """As `give_back`, by a worker that dies of these jobs and has taken its sign of life away: the next claim finds
    their starts to be crashes."""
    return Call(script("restore"), (), ["crashed", iso_now(), process, *tags], _strings)


@dataclass(frozen=True, slots=True)
class Swept:
    """`ended`: the overdue jobs; `strays`: how many traces of lost records were mended."""

    ended: list[str]
    strays: int


def sweep(
    queues: Mapping[str, str] | None = None, *, limit: int = 500, dead_ttl_ms: int = keys.DEAD_TTL_S * 1000
) -> Call[Swept]:
    """End overdue jobs; mend what is left of lost records, and then the counters of `queues` (ref: queue), whose lists
    are rid of ended jobs when these are most of them. Dead letters older than `dead_ttl_ms` go."""
    lists = [(ref, *(keys.queue_list(name, step) for step in keys.PRIORITIES)) for ref, name in (queues or {}).items()]
    return Call(
        script("sweep"),
        (),
        (limit, iso_now(), dead_ttl_ms, len(keys.PRIORITIES), *(part for names in lists for part in names)),
        lambda reply: Swept(_strings(reply[0]), reply[1]),
    )


@dataclass(frozen=True, slots=True)
class Retried:
    """`status` retried: the new job; gone: no such letter; payload: one of its payloads is gone; outdated: as for
    `submit`."""

    status: Literal["retried", "gone", "payload", "outdated"]
    created_at: int = 0
    deadline_at: int = 0


def retry(
    letter: str,
    *,
    old_id: str,
    payloads: int,
    job_id: str,
    list_name: str,
    raw: bytes,
    ref: str,
    deadline_ms: int,
    ttl_ms: int,
    size: int,
    etag: str = "",
    fields: dict[str, str | int],
) -> Call[Retried]:
    """A dead letter becomes the new job `job_id`; `raw` is its message. `old_id`: the job that the letter is of."""
    what = (letter, old_id, payloads, job_id, list_name, raw, ref, deadline_ms, ttl_ms, size, etag)
    return Call(script("retry"), (), (*what, *_pairs(fields)), _retried)


def _retried(reply: list[Any]) -> Retried:
    status = reply[0].decode()
    return Retried(status, int(reply[1]), int(reply[2])) if status == "retried" else Retried(status)


def drop(letter: str, *, job_id: str, payloads: int) -> Call[bool]:
    """A dead letter goes, and its payloads. False: no such letter."""
    return Call(script("drop"), (), [letter, job_id, payloads], bool)


def oldest(groups: Sequence[Sequence[str]]) -> Call[list[float]]:
    """For each group of queue lists: how long (s) its oldest job has waited for a worker to take it; 0 where none
    waits."""
    lists = [name for group in groups for name in group]
    return Call(script("oldest"), lists, [len(group) for group in groups], lambda reply: [ms / 1000 for ms in reply])


def register(seen: str, etag: str, document: bytes) -> Call[bool]:
    """The registry's new state, in the place of that of etag `seen` ('': none). False: another was quicker."""
    return Call(script("register"), (), [seen, etag, document], bool)


def _strings(reply: list[bytes]) -> list[str]:
    return [part.decode(errors="replace") for part in reply]  # a tag that some other producer made may be no text
