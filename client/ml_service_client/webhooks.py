"""Receiving webhooks: Standard Webhooks (https://www.standardwebhooks.com), checked before anything is believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ml_service_client.errors import WebhookError
from ml_service_client.records import Batch
from ml_service_client.types import Job, Json, instant

TOLERANCE_S = 300


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """What happened: `type` is `job.succeeded`, `batch.completed` ..., with the job or the batch. `id` is the same when
    it is delivered again: keep it to do nothing twice."""

    id: str
    type: str
    timestamp: datetime | None
    job: Job | None
    batch: Batch | None
    raw: Json = field(default_factory=dict, repr=False, compare=False)


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes | str,
    secret: str | Iterable[str],
    *,
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> WebhookEvent:
    """The event, if it was signed with (one of) your secret(s) within the last five minutes; else WebhookError.

    `body` must be the bytes as they came, not JSON that was read and written again. `headers` are any mapping,
    whatever the case of its names. `now` (Unix seconds) is for tests.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        message, stamp, signatures = (given[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as error:
        raise WebhookError(f"the header {error.args[0]} is missing") from None
    _check_time(stamp, time.time() if now is None else now, tolerance_s)
    payload = body.encode() if isinstance(body, str) else bytes(body)
    secrets = [secret] if isinstance(secret, str) else list(secret)
    if not secrets:
        raise ValueError("no secret was given")
    wanted = [_digest(one, message, stamp, payload) for one in secrets]
    if not any(hmac.compare_digest(found, one) for found in _signatures(signatures) for one in wanted):
        raise WebhookError("no signature fits")
    return _event(message, payload)


def signature(secret: str, message: str, stamp: str, body: bytes) -> str:
    """What the header `webhook-signature` holds: for tests of a receiver."""
    return "v1," + base64.b64encode(_digest(secret, message, stamp, body)).decode()


def _digest(secret: str, message: str, stamp: str, body: bytes) -> bytes:
    return hmac.new(_key(secret), b".".join((message.encode(), stamp.encode(), body)), hashlib.sha256).digest()


def _check_time(stamp: str, now: float, tolerance_s: float) -> None:
    if not (stamp.isascii() and stamp.isdigit()):
        raise WebhookError("webhook-timestamp is no number")
    if abs(now - int(stamp)) > tolerance_s:
        raise WebhookError("it was signed too long ago, or this machine's clock is wrong")


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError("the secret is not base64, with whsec_ before it")
    return key


def _signatures(header: str) -> Iterable[bytes]:
    for one in header.split():
        version, _, signature = one.partition(",")
        if version == "v1":
            try:
                yield base64.b64decode(signature, validate=True)
            except ValueError:
                continue


def _event(message: str, payload: bytes) -> WebhookEvent:
    try:
        raw = json.loads(payload)
        kind, data = raw["type"], raw["data"]
        job = Job.of(data) if kind.startswith("job.") else None
        batch = Batch.of(data) if kind.startswith("batch.") else None
        return WebhookEvent(message, kind, instant(raw.get("timestamp")), job, batch, raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WebhookError(f"it is signed, but is no event of ml-service: {error!r}") from None
