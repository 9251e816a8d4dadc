"""The scripts of webhooks: as shared/scripts.py. A delivery begins in prelude_webhooks.lua (`notify`),
where its event does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from shared.calls import Call, script
from shared.webhooks import Kind

LOG_LENGTH = 20  # attempts that are kept of a delivery

Came = Literal["delivered", "retry", "failed", "disabled", "back"]


@dataclass(frozen=True, slots=True)
class Taken:
    """A delivery in the hands of who took it, until its lease is over. `of` is the id of its job or batch, `at` the
    event's instant (ms), `tries` how many attempts of the schedule have failed, `body` what they have sent; empty: none
    has."""

    id: str
    holder: str
    kind: Kind
    of: str
    event: str
    at: int
    owner: str
    url: str
    host: str
    tries: int
    body: bytes = b""
    request_id: str = ""
    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class Due:
    """`wait_ms`: until the next is due; None: none is known."""

    taken: list[Taken]
    wait_ms: int | None


def deliver(
    *, lease_ms: int, most: int, of_one_host: int, holder: str, rooms: Mapping[str, int] | None = None
) -> Call[Due]:
    """Take up to `most` deliveries that are due, up to `of_one_host` of each host, or as `rooms` says."""
    pairs = [part for item in (rooms or {}).items() for part in item]
    return Call(script("deliver"), (), (lease_ms, most, of_one_host, holder, *pairs), _due)


def _due(reply: list[Any]) -> Due:
    found = [_taken(name.decode(), flat) for name, flat in zip(reply[1::2], reply[2::2], strict=True)]
    return Due(found, None if reply[0] < 0 else reply[0])


def _taken(delivery: str, flat: list[bytes]) -> Taken:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))

    def text(name: bytes) -> str:
        return fields.get(name, b"").decode(errors="replace")

    return Taken(
        id=delivery,
        holder=text(b"holder"),
        kind=cast(Kind, text(b"kind")),
        of=text(b"of"),
        event=text(b"event"),
        at=int(fields[b"at"]),
        owner=text(b"owner"),
        url=text(b"url"),
        host=text(b"host"),
        tries=int(fields[b"tries"]),
        body=fields.get(b"body", b""),
        request_id=text(b"request_id"),
        traceparent=text(b"traceparent"),
        tracestate=text(b"tracestate"),
    )


def delivered(
    taken: Taken,
    came: Came,
    *,
    status: int | None = None,
    error: str = "",
    ms: int = 0,
    wait_ms: int = 0,
    body: bytes = b"",
) -> Call[str]:
    """What came of an attempt; the delivery's state then, empty: it has expired. `wait_ms`: until it is due again, for
    retry and back. `body` is kept for the next attempt, unless it was delivered."""
    told = (taken.id, taken.holder, came, "" if status is None else status, error, ms, wait_ms)
    kept = b"" if came == "delivered" else body
    return Call(script("delivered"), (), (*told, kept, LOG_LENGTH), lambda reply: str(reply.decode()))


def redeliver(deliveries: Sequence[str]) -> Call[list[str]]:
    """Each now, by a fresh schedule. For each `due`; `gone`: its body was delivered and its job has expired; empty: no
    such delivery."""
    return Call(script("redeliver"), (), deliveries, lambda reply: [part.decode() for part in reply])


@dataclass(frozen=True, slots=True)
class Backlog:
    """Deliveries that are not done, those of them that are due and nobody has taken, and since when (s) the first of
    these is due."""

    waiting: int
    due: int
    oldest_s: float


def backlog() -> Call[Backlog]:
    """Read only."""
    return Call(script("backlog"), (), (), lambda reply: Backlog(reply[0], reply[1], reply[2] / 1000))


def resecret(owner: str, seen: bytes, new: bytes) -> Call[bool]:
    """What an owner's webhooks are signed with, in the place of `seen` (empty: nothing). False: another was quicker."""
    return Call(script("resecret"), (), (owner, seen, new), bool)
