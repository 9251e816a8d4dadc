"""Where nobody traces: the request's id and the caller's trace go with the job all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from shared import keys, tracing
from tests.api_stack import Api, serving, settings

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BODY = {"model": "echo", "input": 1}
QUEUE = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL)


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    assert not tracing.on()
    async with serving(settings(redis_url, tmp_path)) as running:
        yield running


def carried(store: redis.Redis, job_id: str) -> tuple[dict[str, str], dict[str, Any]]:
    """What the record and the message have of it."""
    record = {name.decode(): value.decode() for name, value in store.hgetall(keys.JOB + job_id).items()}
    headers = orjson.loads(store.lindex(QUEUE, 0))["headers"]
    assert headers["id"] == job_id
    return (
        {name: record[name] for name in ("request_id", "traceparent", "tracestate") if name in record},
        {name: headers[name] for name in ("ml_request_id", "traceparent", "tracestate") if name in headers},
    )


async def test_they_go_with_the_job(api: Api, store: redis.Redis) -> None:
    trace = {"traceparent": PARENT, "tracestate": "vendor=1"}
    answer = await api.client.post("/v1/jobs", json=BODY, headers=trace | {"X-Request-ID": "mine"})
    job = answer.json()
    assert answer.headers["X-Request-ID"] == job["request_id"] == "mine"
    record, headers = carried(store, job["id"])
    assert record == {"request_id": "mine", **trace}
    assert headers == {"ml_request_id": "mine", **trace}
    assert (await api.client.get(f"/v1/jobs/{job['id']}")).json()["request_id"] == "mine", "not that of this request"


async def test_without_them(api: Api, store: redis.Redis) -> None:
    answer = await api.client.post("/v1/jobs", json=BODY)
    record, headers = carried(store, answer.json()["id"])
    assert record == {"request_id": answer.headers["X-Request-ID"]}
    assert headers == {"ml_request_id": answer.headers["X-Request-ID"]}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([("traceparent", "nonsense")], {}),
        ([("traceparent", PARENT), ("traceparent", PARENT)], {}),
        ([("tracestate", "vendor=1")], {}),
        ([("traceparent", PARENT), ("tracestate", "vendor")], {"traceparent": PARENT}),
        (
            [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")],
            {"traceparent": PARENT, "tracestate": "a=1,b=2"},
        ),
        ([("traceparent", PARENT), ("X-Request-ID", "two words")], {"traceparent": PARENT}),
    ],
)
async def test_what_is_wrong_is_dropped_and_the_call_goes_on(
    api: Api, store: redis.Redis, given: list[tuple[str, str]], kept: dict[str, str]
) -> None:
    answer = await api.client.post("/v1/jobs", json=BODY, headers=given)
    assert answer.status_code == 202
    record, headers = carried(store, answer.json()["id"])
    assert record.pop("request_id") == headers.pop("ml_request_id") == answer.headers["X-Request-ID"] != "two words"
    assert record == headers == kept
