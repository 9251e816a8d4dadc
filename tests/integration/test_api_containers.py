"""What SageMaker and Vertex AI ask of a container."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis

from shared import keys, scripts
from shared.api_keys import ApiKey, Scope, digest
from shared.errors import Fault
from shared.payloads import attach
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings

BERT = """
models:
  bert: {task: text-embedding, versions: {"1": {source: a}}}
"""
BOTH = (
    BERT
    + """
  cnn: {task: image-classification, versions: {"1": {source: "torchvision:x"}}}
  echo: {task: echo, versions: {"1": {}}}
"""
)
HEALTH, PREDICT = "/v1/health", "/v1/projects/p/locations/l/endpoints/7:predict"
ROW = [0.25, -0.5]


@asynccontextmanager
async def running(redis_url: str, folder: Path, models: str, **more: Any) -> AsyncIterator[tuple[Api, Hands]]:
    asked = settings(redis_url, folder, models, **{"AIP_HEALTH_ROUTE": HEALTH, "AIP_PREDICT_ROUTE": PREDICT, **more})
    async with serving(asked) as api:
        hands = Hands.on(asked)
        yield api, hands
        await hands.client.aclose()


async def answered(hands: Hands, asked: Any, outcome: Any) -> tuple[httpx.Response, Any]:
    """The answer, and the job as it came to the worker."""
    call = asyncio.create_task(asked)
    (job,) = await hands.take()
    value = attach(job.kwargs["input"], job.payloads, await hands.payloads(job))
    await hands.finish(job, outcome if isinstance(outcome, Outcome) else Outcome(State.SUCCEEDED, output=outcome))
    return await call, job.kwargs | {"input": value}


async def test_invocations(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, tmp_path, BERT) as (api, hands):
        post = api.client.post
        answer, job = await answered(hands, post("/invocations", json={"data": {"text": "hi"}}), {"embedding": ROW})
        assert (job["model"], job["input"], answer.json()["output"]) == ("bert", {"text": "hi"}, {"embedding": ROW})
        text = {"content-type": "text/plain; charset=utf-8"}
        asked = post("/invocations", content='{"no": "JSON"}\u00e4'.encode(), headers=text)
        _, job = await answered(hands, asked, {"embedding": ROW})
        assert job["input"] == {"text": '{"no": "JSON"}\u00e4'}
        refused = await post("/invocations", content=b"\xff", headers=text)
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")
        refused = await post("/invocations", json={"data": {"text": ""}})
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/data/text")
        accept = {"accept": "application/octet-stream"}
        answer, _ = await answered(hands, post("/invocations", json={"data": {"text": "hi"}}, headers=accept), ROW)
        assert (answer.headers["ml-shape"], len(answer.content)) == ("2", 8)


async def test_which_model_of_several(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, tmp_path, BOTH) as (api, hands):
        refused = await api.client.post("/invocations", json={"data": 1})
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/model_type")
        refused = await api.client.post(PREDICT, json={"instances": ["a"]})
        assert refused.status_code == 400
        assert "ML_DEFAULT_MODEL" in refused.json()["detail"]
        asked = api.client.post("/invocations", json={"model_type": "echo", "data": 1})
        assert (await answered(hands, asked, 1))[0].json()["output"] == 1
    async with running(redis_url, tmp_path, BOTH, default_model="cnn") as (api, hands):
        picture = {"content-type": "image/png"}
        _, job = await answered(hands, api.client.post("/invocations", content=b"PNG", headers=picture), {"labels": []})
        assert (job["model"], job["input"]) == ("cnn", {"image": b"PNG"})


async def test_ping_waits_for_a_worker(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    async with running(redis_url, tmp_path, BOTH, default_model="bert") as (api, _):
        for path in ("/ping", HEALTH):
            answer = await api.client.get(path)
            assert (answer.status_code, "bert@1" in answer.json()["detail"]) == (503, True)
    sign = orjson.dumps({"worker": "w1", "state": "ready", "refs": ["bert@1"]})
    card = {"model": "bert", "version": "1", "state": "ready"}
    store.set(keys.card_key("bert@1", "w1"), orjson.dumps(card), px=60_000)
    async with running(redis_url, tmp_path, BOTH, default_model="bert") as (api, hands):
        await hands.call(scripts.renew((), process="w1-a", sign=sign, sign_ms=60_000))
        for path in ("/ping", HEALTH):
            answer = await api.client.get(path)
            assert (answer.status_code, answer.content) == (200, b"")
    async with running(redis_url, tmp_path, BOTH) as (api, _):
        assert (await api.client.get("/ping")).status_code == 503, "cnn has none"


async def test_predict(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, tmp_path, BOTH, default_model="bert") as (api, hands):
        body = {"instances": ["a", {"text": "b"}], "parameters": {"dimensions": 2.0}}
        answer, job = await answered(hands, api.client.post(PREDICT, json=body), [{"embedding": ROW}] * 2)
        assert (job["input"], job["parameters"]) == ([{"text": "a"}, {"text": "b"}], {"dimensions": 2})
        assert answer.json() == {"predictions": [{"embedding": ROW}] * 2}
        for instances, pointer in (([], "/instances"), (["a", ""], "/instances/1/text"), ([3.0], "/instances/0")):
            refused = await api.client.post(PREDICT, json={"instances": instances})
            assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer)
        refused = await api.client.post(PREDICT, json={"instances": ["a"], "parameters": {"colour": 1}})
        assert refused.json()["errors"][0]["pointer"] == "/parameters/colour"
        faults = [Fault(pointer="/1/text", message="too long")]
        failed = Outcome(State.FAILED, code="invalid_input", message="too long", faults=faults)
        answer, _ = await answered(hands, api.client.post(PREDICT, json={"instances": ["a", "b"]}), failed)
        assert answer.json()["errors"][0]["pointer"] == "/instances/1/text"


async def test_bytes_and_whole_numbers_of_vertex(redis_url: str, tmp_path: Path) -> None:
    b64 = {"b64": base64.b64encode(b"PNG").decode()}
    async with running(redis_url, tmp_path, BOTH, default_model="cnn") as (api, hands):
        body = {"instances": [b64, {"image": b64}], "parameters": {"top_k": 3.0}}
        _, job = await answered(hands, api.client.post(PREDICT, json=body), [{"labels": []}] * 2)
        assert (job["input"], job["parameters"]) == ([{"image": b"PNG"}] * 2, {"top_k": 3})
    async with running(redis_url, tmp_path, BOTH, default_model="echo") as (api, hands):
        answer, job = await answered(hands, api.client.post(PREDICT, json={"instances": [{"n": [1.0, 2.5]}]}), {"x": 1})
        assert (job["input"], answer.json()) == ([{"n": [1, 2.5]}], {"predictions": [{"x": 1}]})


async def test_with_keys_the_probes_are_open_and_the_rest_is_not(
    redis_url: str, tmp_path: Path, store: redis.Redis
) -> None:
    key = ApiKey(id="a", name="a", scopes=frozenset({Scope.SUBMIT}))
    store.hset(keys.KEYS, digest("mls_a"), key.model_dump_json())
    async with running(redis_url, tmp_path, BERT, auth="on") as (api, _):
        assert {(await api.client.get(path)).status_code for path in ("/ping", HEALTH)} == {503}
        assert (await api.client.post("/invocations", json={"data": {"text": "a"}})).status_code == 401
        assert (await api.client.post(PREDICT, json={"instances": ["a"]})).status_code == 401


@pytest.mark.parametrize("path", [HEALTH, PREDICT])
async def test_no_route_without_its_variable(redis_url: str, tmp_path: Path, path: str) -> None:
    async with serving(settings(redis_url, tmp_path, BERT)) as api:
        assert (await api.client.get(path)).status_code == 404
        assert (await api.client.post(path)).status_code == 404
