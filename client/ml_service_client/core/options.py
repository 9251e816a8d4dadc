"""What a caller may say of a job, and how it is said on the wire."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from ml_service_client.types import Json

Priority = Literal["high", "normal", "low"]


class CallOptions(TypedDict, total=False):
    """Of one call of a model, and of a batch (whose priority is low if you give none)."""

    version: str | None  # a version or alias; without it the traffic weights decide
    sticky: str | None  # a key of yours: the weights give the same key the same version
    parameters: Mapping[str, Any] | None  # the task's own; and `partial`: keep the good items
    priority: Priority | None
    deadline_s: float | None  # after this the output is worthless
    result_ttl_s: float | None  # how long the finished job can be read
    labels: Mapping[str, str] | None  # yours; returned with the job
    webhook: str | Mapping[str, Any] | None  # a URL, or {"url": ..., "events": [...]}
    idempotency_key: str | None  # made by the client if you give none


def envelope(options: Mapping[str, Any]) -> Json:
    """The fields that were given. Raises TypeError for one that there is not."""
    strange = options.keys() - CallOptions.__annotations__.keys()
    if strange:
        known = ", ".join(CallOptions.__annotations__)
        raise TypeError(f"no such option: {', '.join(sorted(strange))}; there are {known}")
    return {name: value for name, value in options.items() if value is not None and name != "idempotency_key"}


def key_header(options: Mapping[str, Any]) -> dict[str, str]:
    """Idempotency-Key: one for all attempts of a call."""
    return {"Idempotency-Key": options.get("idempotency_key") or uuid.uuid4().hex}
