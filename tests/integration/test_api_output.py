"""`GET /v1/jobs/{id}/output` and answers as bytes, on a real server."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.errors import Fault
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings

OCTETS = {"Accept": "application/octet-stream"}
VECTORS = {"embeddings": [[1.0, 2.0], [3.0, 4.0], [0.5, -1.0]]}


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path)) as running:
        yield running


async def ended(api: Api, hands: Hands, outcome: Outcome) -> str:
    job_id: str = (await api.client.post("/v1/jobs", json={"model": "echo", "input": 1})).json()["id"]
    await hands.finish((await hands.take())[0], outcome)
    return job_id


async def output(api: Api, job_id: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return await api.client.get(f"/v1/jobs/{job_id}/output", headers=headers)


async def test_only_the_output(api: Api, hands: Hands) -> None:
    for value in ({"a": [1, None]}, "text", None, 7, []):
        job_id = await ended(api, hands, Outcome(State.SUCCEEDED, output=value))
        answer = await output(api, job_id)
        assert (answer.status_code, answer.json()) == (200, value)
        assert answer.headers["content-type"] == "application/json"
        assert (answer.headers["ml-model"], answer.headers["vary"]) == ("echo@1", "Accept")


async def test_none_yet(api: Api, hands: Hands) -> None:
    job_id = (await api.client.post("/v1/jobs", json={"model": "echo", "input": 1})).json()["id"]
    for state in ("queued", "running"):
        answer = await output(api, job_id)
        assert (answer.status_code, answer.json()["code"]) == (409, "not_ended")
        assert state in answer.json()["detail"]
        assert answer.json()["job"] == answer.headers["location"] == f"/v1/jobs/{job_id}"
        if state == "queued":
            await hands.take()
    assert (await output(api, "no")).json()["code"] == "job_not_found"


async def test_a_job_that_did_not_succeed_tells_its_own_error(api: Api, hands: Hands) -> None:
    faults = [Fault(pointer="/texts/1", message="too long")]
    for code, status in (("invalid_input", 422), ("predict_error", 500), ("out_of_memory", 507)):
        failed = Outcome(State.FAILED, code=code, message="told so", faults=faults)
        job_id = await ended(api, hands, failed)
        answer = await output(api, job_id, OCTETS)
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["detail"]) == (status, code, "told so")
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["errors"][0]["pointer"] == "/texts/1"
        assert problem["job"] == f"/v1/jobs/{job_id}"
        assert ("x-should-retry" in answer.headers) == (status >= 500)
    queued = (await api.client.post("/v1/jobs", json={"model": "echo", "input": 1})).json()["id"]
    await api.client.delete(f"/v1/jobs/{queued}")
    assert (await output(api, queued)).json()["code"] == "canceled"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/octet-stream", "application/octet-stream"),
        ("application/octet-stream, application/json;q=0.9", "application/octet-stream"),
        ("application/octet-stream;q=0.5, application/json", "application/json"),
        ("text/html", "application/json"),
    ],
)
async def test_bytes_for_who_asks(api: Api, hands: Hands, accept: str | None, kind: str) -> None:
    job_id = await ended(api, hands, Outcome(State.SUCCEEDED, output=VECTORS))
    answer = await output(api, job_id, {"Accept": accept} if accept else None)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    if kind == "application/json":
        assert answer.json() == VECTORS
    else:
        assert (answer.headers["ml-shape"], answer.headers["ml-dtype"]) == ("3,2", "float32")
        assert struct.unpack("<6f", answer.content) == (1, 2, 3, 4, 0.5, -1)


async def test_no_bytes_of_what_is_no_array(api: Api, hands: Hands) -> None:
    job_id = await ended(api, hands, Outcome(State.SUCCEEDED, output={"labels": []}))
    answer = await output(api, job_id, OCTETS)
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
    either = await output(api, job_id, {"Accept": "application/octet-stream, application/json;q=0.1"})
    assert (either.status_code, either.json()) == (200, {"labels": []})


async def test_inference_answers_in_bytes(api: Api, hands: Hands) -> None:
    async def ask(value: Any, **headers: str) -> httpx.Response:
        asked = asyncio.create_task(
            api.client.post("/inference", json={"model_type": "echo", "data": 1}, headers=OCTETS | headers)
        )
        (taken,) = await hands.take()
        await hands.finish(taken, Outcome(State.SUCCEEDED, output=value))
        return await asked

    answer = await ask(VECTORS)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    assert (answer.headers["ml-shape"], answer.headers["ml-model"]) == ("3,2", "echo@1")
    assert struct.unpack("<6f", answer.content) == (1, 2, 3, 4, 0.5, -1)
    assert (await api.client.get(f"{answer.headers['location']}/output")).json() == VECTORS
    none = await ask({"a": 1})
    assert (none.status_code, none.json()["code"]) == (406, "not_acceptable")
    assert (await api.client.get(f"{none.json()['job']}/output")).json() == {"a": 1}, "it was not run for nothing"
    fallback = await ask({"a": 1}, Accept="application/octet-stream, */*;q=0.1")
    assert fallback.json()["output"] == {"a": 1}


async def test_a_queued_job_is_json_whatever_was_asked(api: Api) -> None:
    answer = await api.client.post("/v1/jobs", json={"model": "echo", "input": 1}, headers=OCTETS)
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
