"""Signatures of webhooks: the vector that three libraries accept, the standardwebhooks library, what must not pass."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from ml_service_client import MLServiceClient, WebhookError, verify_webhook
from ml_service_client.webhooks import _signatures, signature

SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
JOB = {"id": "j1", "model": "bert", "version": "1", "state": "succeeded", "output": {"x": "é"}}
BODY = json.dumps({"type": "job.succeeded", "timestamp": "2026-01-01T00:00:00Z", "data": JOB}).encode()
NOW = 1767225600


def headers(body: bytes = BODY, secret: str = SECRET, at: int = NOW) -> dict[str, str]:
    return {
        "Webhook-Id": "msg_01",
        "Webhook-Timestamp": str(at),
        "Webhook-Signature": signature(secret, "msg_01", str(at), body),
    }


def test_the_vector() -> None:
    vector = b'{"id":"p1","status":"succeeded"}'
    assert signature(SECRET, "msg_01", str(NOW), vector) == "v1,7rg70WQqerJHNzDkHQf9VO3QP4rCt8tI6c/0GCz6GKk="


def test_the_event() -> None:
    event = verify_webhook(headers(), BODY, SECRET, now=NOW + 299)
    assert (event.id, event.type) == ("msg_01", "job.succeeded")
    assert event.timestamp == datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert event.job is not None
    assert event.job.result() == {"x": "é"}
    assert event.batch is None
    assert MLServiceClient.verify_webhook(headers(), BODY.decode(), SECRET, now=NOW) == event


def test_a_batch() -> None:
    batch = {"id": "batch_1", "model": "m", "version": "1", "state": "completed", "counts": {"total": 3, "failed": 1}}
    body = json.dumps({"type": "batch.completed", "timestamp": "2026-01-01T00:00:00Z", "data": batch}).encode()
    event = verify_webhook(headers(body), body, SECRET, now=NOW)
    assert event.batch is not None
    assert (event.batch.counts.total, event.batch.counts.done) == (3, 1)


def test_while_secrets_rotate() -> None:
    new = "whsec_" + "QUJD" * 8
    both = headers()
    both["Webhook-Signature"] += " " + headers(secret=new)["Webhook-Signature"] + " v1a,xx v1,*"
    for secret in (SECRET, new, [new, SECRET]):
        assert verify_webhook(both, BODY, secret, now=NOW).id == "msg_01"


@pytest.mark.parametrize(
    ("changed", "body", "now"),
    [
        ({}, BODY + b" ", NOW),
        ({}, BODY, NOW + 301),
        ({}, BODY, NOW - 301),
        ({"Webhook-Id": "msg_02"}, BODY, NOW),
        ({"Webhook-Timestamp": str(NOW + 1)}, BODY, NOW),
        ({"Webhook-Timestamp": "1e9"}, BODY, NOW),
        ({"Webhook-Timestamp": "²"}, BODY, NOW),
        ({"Webhook-Signature": ""}, BODY, NOW),
        ({"Webhook-Signature": "v1,"}, BODY, NOW),
        ({"Webhook-Signature": "v1,é"}, BODY, NOW),
        ({"Webhook-Signature": headers()["Webhook-Signature"].replace("v1,", "v2,")}, BODY, NOW),
    ],
)
def test_what_must_not_pass(changed: dict[str, str], body: bytes, now: int) -> None:
    with pytest.raises(WebhookError):
        verify_webhook({**headers(), **changed}, body, SECRET, now=now)


@pytest.mark.parametrize("name", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
def test_a_header_is_missing(name: str) -> None:
    with pytest.raises(WebhookError, match=name.lower()):
        verify_webhook({key: value for key, value in headers().items() if key != name}, BODY, SECRET, now=NOW)


def test_another_secret_and_one_that_is_none() -> None:
    with pytest.raises(WebhookError):
        verify_webhook(headers(), BODY, "whsec_" + "QUJD" * 8, now=NOW)
    with pytest.raises(ValueError, match="base64") as caught:
        verify_webhook(headers(), BODY, "whsec_*", now=NOW)
    assert not isinstance(caught.value, WebhookError), "a mistake in the receiver's configuration"
    for nothing in ("", "whsec_", []):
        with pytest.raises(ValueError, match="secret"):
            verify_webhook(headers(), BODY, nothing, now=NOW)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"no", b'{"type": 1, "data": {}}', b'{"type": "job.x", "data": {}}'])
def test_signed_but_no_event(body: bytes) -> None:
    with pytest.raises(WebhookError):
        verify_webhook(headers(body), body, SECRET, now=NOW)


def test_the_library_signs_what_we_accept_and_accepts_what_we_sign() -> None:
    library: Any = pytest.importorskip("standardwebhooks")
    hook = library.Webhook(SECRET)
    at = datetime.now(timezone.utc)
    stamp = str(int(at.timestamp()))
    signed = {"webhook-id": "m", "webhook-timestamp": stamp, "webhook-signature": hook.sign("m", at, BODY.decode())}
    assert verify_webhook(signed, BODY, SECRET).id == "m"
    ours = {**signed, "webhook-signature": signature(SECRET, "m", stamp, BODY)}
    assert hook.verify(BODY, ours)["type"] == "job.succeeded"
    assert len(list(_signatures(ours["webhook-signature"]))) == 1
