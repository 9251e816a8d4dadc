"""The script that writes outcomes. As in shared/scripts.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from shared.calls import Call, iso_now, run, script
from shared.types import State

# Of one call, for Redis serves nobody else meanwhile: about a millisecond.
MOST_JOBS, MOST_BYTES = 64, 1_000_000


@dataclass(frozen=True, slots=True)
class Finished:
    """`first`: this outcome stands; else `state` (if known) is what stood before."""

    first: bool
    state: State | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job took."""

    items: int
    tokens: int
    device_us: int


@dataclass(frozen=True, slots=True)
class End:
    """Of a job. `meta` is the outcome in Celery's format; `tag` the message to forget ('' keeps it); `stored` the
    reference of the output, where it lies in the payload store. `usage` is counted for the job's key, if this outcome
    is the first."""

    job_id: str
    tag: str
    state: State
    code: str
    meta: bytes
    stored: str = ""
    usage: Usage | None = None


def finish_all(client: redis.Redis, ends: Sequence[End], *, ttl_ms: int) -> list[Finished | Exception]:
    """Write outcomes, a bounded part of them in each call, all in one round trip. What fails of one job stands in its
    place, as the ResponseError that Redis gave, and takes no other with it; an error of a call is that of all its jobs.
    Raises as `run`."""
    slices = list(_slices(ends))
    replies: list[Finished | Exception] = []
    for some, reply in zip(slices, run(client, [finish_some(some, ttl_ms=ttl_ms) for some in slices]), strict=True):
        replies += [reply] * len(some) if isinstance(reply, Exception) else reply
    return replies


def finish_some(ends: Sequence[End], *, ttl_ms: int) -> Call[list[Finished | Exception]]:
    """All of these in one call."""
    args: list[str | bytes | int] = [iso_now(), ttl_ms]
    for end in ends:
        used = ("", "", "") if end.usage is None else (end.usage.items, end.usage.tokens, end.usage.device_us)
        args += (end.tag, end.job_id, end.state.value, end.code, end.meta, end.stored, *used)
    return Call(script("finish"), (), args, lambda reply: [_finished(one) for one in reply])


def finish(
    job_id: str,
    *,
    tag: str,
    state: State,
    code: str,
    meta: bytes,
    ttl_ms: int,
    stored: str = "",
    usage: Usage | None = None,
) -> Call[Finished | Exception]:
    """One of them."""
    call = finish_some([End(job_id, tag, state, code, meta, stored, usage)], ttl_ms=ttl_ms)
    return Call(call.script, (), call.args, lambda reply: _finished(reply[0]))


def _slices(ends: Sequence[End]) -> Iterator[Sequence[End]]:
    first = size = 0
    for at, end in enumerate(ends):
        if at > first and (at - first == MOST_JOBS or size + len(end.meta) > MOST_BYTES):
            yield ends[first:at]
            first, size = at, 0
        size += len(end.meta)
    if ends:
        yield ends[first:]


def _finished(reply: Any) -> Finished | Exception:
    if isinstance(reply, Exception):
        return reply
    return Finished(bool(reply[0]), State(reply[1].decode()) if reply[1] else None)
