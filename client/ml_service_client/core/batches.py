"""Batches: many inputs in one call."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_service_client.core import calls
from ml_service_client.core.answers import dict_of, id_of
from ml_service_client.core.bodies import FileSource, OpenSource, encode, lines
from ml_service_client.core.options import envelope, key_header
from ml_service_client.core.retries import Policy, exchange
from ml_service_client.core.steps import Call, Request
from ml_service_client.records import Batch

_IN_QUERY_AS_JSON = ("parameters", "labels", "webhook")


def body(inputs: Iterable[Any] | Path) -> FileSource | OpenSource:
    """JSON lines: of a file as it is, else of each input. Raises TypeError for a text, whose inputs would be its
    letters."""
    if isinstance(inputs, str | bytes):
        raise TypeError("inputs: an iterable of inputs, or a pathlib.Path of a file, not a text")
    return FileSource(inputs) if isinstance(inputs, Path) else lines(inputs)


def batch(
    policy: Policy, model: str | None, content: FileSource | OpenSource, options: Mapping[str, Any]
) -> Call[Batch]:
    """`POST /v1/batches`."""
    params: dict[str, str | list[str]] = {} if model is None else {"model": model}
    for name, value in envelope(options).items():
        params[name] = encode(value).decode() if name in _IN_QUERY_AS_JSON else str(value)
    headers = {"Content-Type": "application/x-ndjson", **key_header(options)}
    request = Request("POST", "/v1/batches", params=params, headers=headers, content=content)
    return Batch.of(dict_of((yield from exchange(request, policy))))


def get_batch(policy: Policy, which: object) -> Call[Batch]:
    """`GET /v1/batches/{id}`."""
    return Batch.of((yield from calls.ask(policy, "GET", f"/v1/batches/{id_of(which)}")))


def cancel_batch(policy: Policy, which: object) -> Call[Batch]:
    """`DELETE /v1/batches/{id}`."""
    return Batch.of((yield from calls.ask(policy, "DELETE", f"/v1/batches/{id_of(which)}")))


def wait_batch(
    policy: Policy, which: object, timeout_s: float | None, clock: calls.Clock = time.monotonic
) -> Call[Batch]:
    """Until all its lines have ended. Raises WaitEnded after `timeout_s`."""
    path = f"/v1/batches/{id_of(which)}"
    return Batch.of((yield from calls.held(policy, path, timeout_s, clock, lambda raw: Batch.of(raw).done)))


def batches_page(policy: Policy, limit: int, cursor: str | None) -> Call[tuple[list[Batch], str | None]]:
    """One page of `GET /v1/batches`, and the cursor of the next."""
    params = {"limit": str(limit), **({"cursor": cursor} if cursor else {})}
    page = yield from calls.ask(policy, "GET", "/v1/batches", params=params)
    return [Batch.of(one) for one in page["data"]], page.get("next")
