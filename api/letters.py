"""A dead letter: what is stored, what HTTP shows of it, and the job that a retry makes of it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import orjson
from pydantic import ValidationError

from api.schemas import Letter, LetterDetail, LetterPayload
from shared import keys, messages, scripts
from shared.catalog import Catalog, Ref
from shared.errors import CannotRetry, UnknownModel
from shared.origin import Carried
from shared.settings import Settings


@dataclass(frozen=True)
class Entry:
    """A letter as stored: its number in the stream, and its fields."""

    id: str
    fields: dict[bytes, bytes]

    def text(self, name: str) -> str:
        """A field, or empty."""
        return self.fields.get(name.encode(), b"").decode(errors="replace")

    @property
    def raw(self) -> bytes:
        """The message, byte for byte."""
        return self.fields[b"raw"]

    @cached_property
    def message(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The message and its keyword arguments, if they can be read."""
        try:
            return messages.unpack(self.raw)
        except ValueError:
            return None

    @property
    def pointers(self) -> list[str]:
        """Where in the input its payloads belong, in the order of their numbers."""
        found = self.message[0]["headers"].get("ml_payloads") if self.message else None
        return [str(pointer) for pointer in found] if isinstance(found, list) else []

    @property
    def stored(self) -> dict[int, str]:
        """References of those that lie in the payload store, by number."""
        found = self.message[0]["headers"].get("ml_stored") if self.message else None
        if not isinstance(found, dict):
            return {}
        return {n: str(found[str(n)]) for n in range(len(self.pointers)) if str(n) in found}

    @property
    def ref(self) -> str:
        """`model@version` of its job, or of what the message asks for where there is no record; or empty."""
        if ref := self.text("ref"):
            return ref
        model, version = (self.message[1].get(name) for name in ("model", "version")) if self.message else ("", "")
        return "@".join(part for part in (model, version) if isinstance(part, str) and part)

    @property
    def payload_keys(self) -> list[str]:
        """Where its other payloads lie."""
        count = len(self.pointers) - len(self.stored)
        return [keys.payload_key(self.text("id"), number) for number in range(count)]

    @property
    def payloads(self) -> list[str]:
        """Where each of its payloads lies: a key, or a reference of the payload store."""
        stored, rest = self.stored, iter(self.payload_keys)
        return [stored.get(number) or next(rest, "") for number in range(len(self.pointers))]

    @property
    def labels(self) -> dict[str, str]:
        """Of its job."""
        found: dict[str, str] = orjson.loads(self.text("labels") or "{}")
        return found


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are wanted. `model` is a name, or `name@version`; `labels` are all to be there."""

    reason: str | None = None
    model: str | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def passes(self, entry: Entry) -> bool:
        """Whether it lets this one through."""
        return (
            self.reason in (None, entry.text("reason"))
            and self.model in (None, entry.ref, entry.ref.partition("@")[0])
            and set(self.labels) <= entry.labels.items()
        )


ALL = Filter()


def summary(entry: Entry) -> Letter:
    """As it stands in the list."""
    return Letter(**_summary(entry))


def detail(entry: Entry, sizes: list[int | None], obstacle: str | None) -> LetterDetail:
    """All of it. `sizes`: of the payloads, None for one that is gone."""
    try:
        text, encoding = entry.raw.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(entry.raw).decode(), "base64"
    parts = zip(entry.payloads, entry.pointers, sizes, strict=True)
    return LetterDetail(
        **_summary(entry),
        obstacle=obstacle,
        arguments=entry.message[1] if entry.message else None,
        payloads=[LetterPayload(key=key, pointer=pointer, bytes=size) for key, pointer, size in parts],
        message=text,
        message_encoding=encoding,
    )


def _summary(entry: Entry) -> dict[str, Any]:
    model, _, version = entry.ref.partition("@")
    return {
        "id": entry.id,
        "reason": entry.text("reason"),
        "created_at": datetime.fromtimestamp(int(entry.id.partition("-")[0]) / 1000, UTC),
        "job_id": entry.text("id") or None,
        "model": model or None,
        "version": version or None,
        "queue": keys.queue_of(entry.text("list")),
        "attempts": int(entry.text("attempt") or 0),
        "crashes": int(entry.text("crashes") or 0),
        "worker": entry.text("worker") or None,
        "input_bytes": int(entry.text("size")) + int(entry.text("stored_bytes") or 0) if entry.text("size") else None,
        "message_bytes": len(entry.raw),
        "labels": entry.labels,
    }


_KEPT = (
    "labels",
    "owner",
    "items",
    "weight",
    "timeout_ms",
    "stored",
    "files",
    "stored_bytes",
    "webhook",
    "fallback_for",
)


@dataclass(frozen=True, slots=True)
class Retry:
    """A new job from a letter."""

    job_id: str
    ref: Ref
    labels: dict[str, str]
    priority: keys.PriorityName
    call: scripts.Call[scripts.Retried]


def compose_retry(entry: Entry, job_id: str, *, catalog: Catalog, settings: Settings, carried: Carried) -> Retry:
    """The new job is a suspect: it runs alone, as its message may have killed processes. It has the service's default
    deadline: the old one was its caller's, who waits no more. Raises CannotRetry."""
    etag = catalog.etag
    message, ref = _retriable(entry, catalog)
    priority = keys.nearest_priority(message["properties"].get("priority"))
    kept = {name: entry.text(name) for name in _KEPT if entry.text(name)}
    call = scripts.retry(
        entry.id,
        old_id=entry.text("id"),
        payloads=len(entry.payload_keys),
        job_id=job_id,
        list_name=keys.queue_list(keys.queue_name(ref.model, ref.version), priority),
        raw=messages.reissue(message, job_id, carried.headers()),
        ref=str(ref),
        deadline_ms=int(settings.default_deadline_s * 1000),
        ttl_ms=int(entry.text("ttl_ms") or settings.result_ttl_s * 1000),
        size=int(entry.text("size") or len(entry.raw)),
        etag=etag,
        fields={
            "model": ref.model,
            "version": ref.version,
            "priority": priority,
            "payloads": len(entry.payload_keys),
            "dead_ttl_ms": int(settings.dead_ttl_s * 1000),
            "retried_from": entry.text("id"),
            "suspect": "1",
            **kept,
            **carried.fields(),
        },
    )
    return Retry(job_id, ref, orjson.loads(kept.get("labels", "{}")), keys.PRIORITY_WORDS[priority], call)


def obstacle(entry: Entry, catalog: Catalog) -> str | None:
    """Why the letter cannot be retried; None if it can. Its payloads are looked at by the script alone."""
    try:
        _retriable(entry, catalog)
    except CannotRetry as error:
        return error.message
    return None


def _retriable(entry: Entry, catalog: Catalog) -> tuple[dict[str, Any], Ref]:
    """The message and its model. Raises CannotRetry."""
    if entry.message is None:
        raise CannotRetry("the message cannot be read")
    message, kwargs = entry.message
    ours = message["headers"].get("ml")
    if ours is None:
        raise CannotRetry("the message was never a job of this service: its producer must send it again")
    if not isinstance(ours, int) or ours > messages.VERSION:
        raise CannotRetry("the message has a version that this API does not know")
    try:
        asked = messages.Envelope.of(message["headers"], kwargs).arguments
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise CannotRetry(f"the message is not what this service writes: {fault['loc'][-1]}: {fault['msg']}") from None
    try:
        return message, catalog.resolve(asked.model, asked.version)
    except UnknownModel as error:
        raise CannotRetry(error.message) from None
