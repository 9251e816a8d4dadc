"""Files and webhooks' own calls."""

from __future__ import annotations

from typing import Any

from ml_service_client.core.answers import dict_of, id_of
from ml_service_client.core.bodies import FileSource, OpenSource
from ml_service_client.core.calls import ask
from ml_service_client.core.retries import Policy, exchange
from ml_service_client.core.steps import Call, Request
from ml_service_client.records import Batch, Delivery, File, WebhookSecret
from ml_service_client.types import Json, instant


def upload(policy: Policy, content: bytes | FileSource | OpenSource, content_type: str) -> Call[File]:
    """`POST /v1/files`. A repeated upload is another file, which expires: no work is done twice."""
    headers = {"Content-Type": content_type}
    # x-should-retry rules and refusals hold; a lost answer is worth another file.
    request = Request("POST", "/v1/files", headers=headers, content=content, again=True)
    return File.of(dict_of((yield from exchange(request, policy))))


def file(policy: Policy, which: object) -> Call[File]:
    """`GET /v1/files/{id}`."""
    return File.of((yield from ask(policy, "GET", f"/v1/files/{id_of(which)}")))


def download(policy: Policy, which: object) -> Call[bytes]:
    """`GET /v1/files/{id}/content`."""
    return (yield from exchange(Request("GET", f"/v1/files/{id_of(which)}/content"), policy)).content


def delete_file(policy: Policy, which: object) -> Call[None]:
    """`DELETE /v1/files/{id}`."""
    yield from ask(policy, "DELETE", f"/v1/files/{id_of(which)}")


def webhook_secret(policy: Policy) -> Call[WebhookSecret]:
    """`GET /v1/webhooks/secret`."""
    return _secret((yield from ask(policy, "GET", "/v1/webhooks/secret")))


def rotate_webhook_secret(policy: Policy, grace_s: float) -> Call[WebhookSecret]:
    """`POST /v1/webhooks/secret/rotate`."""
    path = "/v1/webhooks/secret/rotate"
    return _secret((yield from ask(policy, "POST", path, json={"grace_s": grace_s})))


def _secret(raw: Json) -> WebhookSecret:
    return WebhookSecret(raw["secret"], instant(raw.get("previous_until")))


def deliveries(policy: Policy, of: object, *, again: bool = False) -> Call[list[Delivery]]:
    """`GET` or `POST /v1/jobs/{id}/deliveries`, or of a batch."""
    found: Any = yield from ask(policy, "POST" if again else "GET", f"{_where(of)}/deliveries")
    return [Delivery.of(one) for one in found["data"]]


def _where(of: object) -> str:
    found = id_of(of)
    return f"/v1/{'batches' if isinstance(of, Batch) or found.startswith('batch_') else 'jobs'}/{found}"
