"""The scripts of batches, as shared/scripts.py has those of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shared.calls import Call, iso_now, script
from shared.messages import Template


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a batch that fits. `input` as `messages.encode_input` gives it; `pointers` of its payloads as JSON,
    empty for none; `size` in bytes as a job's."""

    number: int
    size: int
    items: int
    pointers: bytes
    input: bytes

    def entry(self) -> bytes:
        """As it lies in Redis (see `begin_line` in prelude_batches.lua)."""
        items = b"" if self.items == 1 else b"%d" % self.items
        return b"%d\n%d\n%s\n%s\n%s" % (self.number, self.size, items, self.pointers, self.input)


def open_batch(
    batch_id: str, *, ref: str, lease_ms: int, made_of: Template, fields: Mapping[str, str | int]
) -> Call[None]:
    """A batch begins to be sent; `lease_ms` after its last slice it is dropped. `fields`: of its record."""
    template = ("template", made_of.text, "head", made_of.head, "tail", made_of.tail)
    pairs = [part for item in fields.items() for part in item]
    return Call(script("batch_open"), (), (batch_id, ref, lease_ms, *template, *pairs), lambda _: None)


def append_lines(
    batch_id: str,
    *,
    first: int,
    lines: Sequence[Line],
    refused: Mapping[int, bytes],
    payloads: int,
    lease_ms: int,
) -> Call[bool]:
    """The next lines, of which `first` is the first: those that fit, and by number the errors (JSON) of those that do
    not; `payloads` are stored for them. False: the batch was dropped meanwhile."""
    count = len(lines) + len(refused)
    pairs = [part for item in refused.items() for part in item]
    entries = [line.entry() for line in lines]
    args = (batch_id, first, count, lease_ms, payloads, len(refused), *pairs, *entries)
    return Call(script("batch_append"), (), args, bool)


@dataclass(frozen=True, slots=True)
class Sealed:
    """`status` accepted; existing: the idempotency key's batch; mismatch: that key with another payload; outdated: the
    registry is not the one that the version was chosen by; gone: it was dropped meanwhile."""

    status: Literal["accepted", "existing", "mismatch", "outdated", "gone"]
    batch_id: str = ""
    created_at: int = 0


def seal_batch(
    batch_id: str,
    *,
    total: int,
    deadline_ms: int,
    ttl_ms: int,
    owner: str,
    etag: str,
    idempotency: str = "",
    fingerprint: str = "",
) -> Call[Sealed]:
    """A batch that was sent whole, `total` lines, is accepted. `owner`: whose list it is in."""
    args = (batch_id, total, deadline_ms, ttl_ms, idempotency, fingerprint, etag, owner)
    return Call(script("batch_seal"), (), args, _sealed)


def _sealed(reply: list[Any]) -> Sealed:
    batch_id = reply[1].decode() if len(reply) > 1 else ""
    return Sealed(reply[0].decode(), batch_id, reply[2] if len(reply) > 2 else 0)


def drop_batch(batch_id: str, *, ref: str, limit: int = 500) -> Call[bool]:
    """What was sent of a batch goes, `limit` lines at a time; whether anything is left. An accepted one stays."""
    return Call(script("batch_drop"), (), (batch_id, ref, limit), bool)


@dataclass(frozen=True, slots=True)
class BatchSeen:
    """A batch's record (empty: unknown), and Redis TIME (ms) when it was read."""

    now: int
    record: dict[str, str]


def look_at_batch(batch_id: str, *, channel: str = "") -> Call[BatchSeen]:
    """Read a batch, and be told on `channel` when it has ended or is canceled."""
    return Call(script("batch_look"), (), (batch_id, channel), _seen)


def _seen(reply: list[Any]) -> BatchSeen:
    names, values = reply[1][::2], reply[1][1::2]
    # The template is for the scripts, and no text that anybody reads.
    pairs = zip(names, values, strict=True)
    return BatchSeen(reply[0], {n.decode(): v.decode(errors="replace") for n, v in pairs if n != b"template"})


def cancel_batch(batch_id: str) -> Call[str]:
    """The state before; empty for an unknown batch. Lines in the queue end by `step_batches`."""
    return Call(script("batch_cancel"), (), (batch_id,), lambda reply: str(reply.decode()))


def step_batches(*, limit: int = 500, batch_id: str = "") -> Call[int]:
    """Do what is due of batches, or of one; how many lines it was. As many as `limit`: there may be more."""
    return Call(script("batch_step"), (), (limit, iso_now(), batch_id), int)
