"""`/v1/embeddings` on the wire: what OpenAI's SDKs send and read (they themselves: tests/clients/test_openai.py)."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from shared.errors import Fault
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings, until

MODELS = """
models:
  bert: {task: text-embedding, versions: {"1": {source: a}}, limits: {queue: 2}}
  ids: {task: text-embedding, versions: {"1": {source: a, token_ids: true}}}
  cnn: {task: image-classification, versions: {"1": {source: "torchvision:x"}}}
  own: {handler: "own.py:Own", versions: {"1": {}}}
"""
ROWS = [[0.25, -0.5, 1.0], [1.0, 0.0, 0.5]]


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, MODELS)) as running:
        yield running


async def call(api: Api, body: Any, **headers: str) -> httpx.Response:
    return await api.client.post("/v1/embeddings", json=body, headers=headers)


async def answered(api: Api, hands: Hands, body: Any, output: Any, **headers: str) -> tuple[httpx.Response, Any]:
    """The answer, and what came to the worker."""
    asked = asyncio.create_task(call(api, body, **headers))
    (job,) = await hands.take()
    await hands.finish(job, Outcome(State.SUCCEEDED, output=output, tokens=5))
    return await asked, job.kwargs


async def test_one_text(api: Api, hands: Hands) -> None:
    answer, job = await answered(api, hands, {"model": "bert", "input": "hi", "user": "u1"}, {"embedding": ROWS[0]})
    assert (job["input"], job["parameters"]) == ({"text": "hi"}, {})
    assert answer.json() == {
        "object": "list",
        "model": "bert",
        "data": [{"object": "embedding", "index": 0, "embedding": ROWS[0]}],
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    told = (await api.client.get(answer.headers["location"])).json()
    assert (told["labels"], answer.headers["ml-model"]) == ({"user": "u1"}, "bert@1")


async def test_texts_as_base64_and_cut(api: Api, hands: Hands) -> None:
    body = {"model": "bert", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 3}
    answer, job = await answered(api, hands, body, {"embeddings": ROWS})
    assert (job["input"], job["parameters"]) == ({"texts": ["a", "b"]}, {"dimensions": 3})
    rows = [struct.unpack("<3f", base64.b64decode(one["embedding"])) for one in answer.json()["data"]]
    assert [list(row) for row in rows] == ROWS


async def test_token_ids_where_the_model_says_so(api: Api, hands: Hands) -> None:
    _, job = await answered(api, hands, {"model": "ids", "input": [1, 2]}, {"embedding": ROWS[0]})
    assert job["input"] == {"text": [1, 2]}
    _, job = await answered(api, hands, {"model": "ids", "input": [[1, 2], [3]]}, {"embeddings": ROWS})
    assert job["input"] == {"texts": [[1, 2], [3]]}
    refused = await call(api, {"model": "bert", "input": [[1, 2], [3]]})
    assert refused.status_code == 400
    told = refused.json()["error"]
    assert (told["param"], told["code"], told["type"]) == ("input", "invalid_value", "invalid_request_error")
    assert "check_embedding_ctx_length=False" in told["message"]


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"model": "bert", "input": ""}, 400, "input", "invalid_value"),
        ({"model": "bert", "input": []}, 400, "input", "invalid_value"),
        ({"model": "bert", "input": ["a", ""]}, 400, "input", "invalid_value"),
        ({"model": "bert", "input": ["a", 1]}, 400, "input", "invalid_value"),
        ({"model": "bert", "input": [True]}, 400, "input", "invalid_value"),
        ({"model": "bert", "input": ["a"] * 2049}, 400, "input", "invalid_value"),
        ({"model": "bert", "input": {"text": "a"}}, 400, "input", "invalid_value"),
        ({"model": "bert"}, 400, "input", "invalid_value"),
        ({"input": "a"}, 400, "model", "invalid_value"),
        ({"model": "bert", "input": "a", "encoding_format": "hex"}, 400, "encoding_format", "invalid_value"),
        ({"model": "bert", "input": "a", "dimensions": 0}, 400, "dimensions", "invalid_value"),
        ({"model": "bert", "input": "a", "colour": "red"}, 400, "colour", "invalid_value"),
        ({"model": "cnn", "input": "a"}, 400, "model", "invalid_value"),
        ({"model": "nope", "input": "a"}, 404, None, "model_not_found"),
        (["a"], 400, None, "invalid_value"),
    ],
)
async def test_what_is_wrong_is_named(api: Api, body: Any, status: int, param: str | None, code: str) -> None:
    answer = await call(api, body)
    told = answer.json()["error"]
    assert (answer.status_code, told["param"], told["code"]) == (status, param, code)
    assert answer.headers["content-type"] == "application/json"
    assert told["message"]


async def test_no_json(api: Api) -> None:
    answer = await api.client.post("/v1/embeddings", content=b"{")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("fault", "param"),
    [("/text", "input"), ("/texts/1", "input[1]"), ("/parameters/dimensions", "dimensions")],
)
async def test_what_the_worker_refuses_has_its_place(api: Api, hands: Hands, fault: str, param: str) -> None:
    asked = asyncio.create_task(call(api, {"model": "bert", "input": ["a", "b"], "dimensions": 9}))
    (job,) = await hands.take()
    faults = [Fault(pointer=fault, message="too much")]
    await hands.finish(job, Outcome(State.FAILED, code="invalid_input", message="too much", faults=faults))
    answer = await asked
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.json()["error"]["message"] == "too much"


async def test_a_handler_of_ones_own(api: Api, hands: Hands) -> None:
    answer, job = await answered(api, hands, {"model": "own", "input": "a"}, {"embedding": ROWS[0]})
    assert job["input"] == {"text": "a"}
    assert answer.json()["data"][0]["embedding"] == ROWS[0]
    answer, _ = await answered(api, hands, {"model": "own", "input": "a"}, {"labels": []})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


@pytest.mark.parametrize("told", ["0.4", "nan", "-1", "x", "600"])
async def test_as_long_as_the_client_waits(api: Api, hands: Hands, told: str) -> None:
    asked = asyncio.create_task(call(api, {"model": "bert", "input": "a"}, **{"x-stainless-read-timeout": told}))
    await until(lambda: hands.client.zcard("ml:deadlines"), "it is queued")
    if told == "0.4":
        answer = await asked
        assert (answer.status_code, answer.json()["error"]["code"]) in ((504, "wait_ended"), (504, "deadline_exceeded"))
        assert answer.headers["x-should-retry"] == "false"
    else:
        (job,) = await hands.take()
        await hands.finish(job, Outcome(State.SUCCEEDED, output={"embedding": ROWS[0]}))
        assert (await asked).status_code == 200


async def test_a_full_queue_says_when_to_come_again(api: Api, hands: Hands) -> None:
    waiting = [asyncio.create_task(call(api, {"model": "bert", "input": "a"})) for _ in range(2)]
    taken = await hands.take(2)
    answer = await call(api, {"model": "bert", "input": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
    assert answer.json()["error"]["type"] == "server_error"
    assert int(answer.headers["retry-after"]) >= 1
    for job in taken:
        await hands.finish(job, Outcome(State.SUCCEEDED, output={"embedding": ROWS[0]}))
    assert {one.status_code for one in await asyncio.gather(*waiting)} == {200}


async def test_no_key(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    key = ApiKey(id="a", name="a", scopes=frozenset({Scope.READ}))
    store.hset(keys.KEYS, digest("mls_a"), key.model_dump_json())
    async with serving(settings(redis_url, tmp_path, MODELS, auth="on")) as api:
        answer = await call(api, {"model": "bert", "input": "a"})
        told = answer.json()["error"]
        assert (answer.status_code, told["code"], told["type"]) == (401, "invalid_api_key", "authentication_error")
        answer = await call(api, {"model": "bert", "input": "a"}, Authorization="Bearer mls_a")
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
