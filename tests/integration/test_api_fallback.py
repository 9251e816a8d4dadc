"""A model that names a fallback, on a real API: when a job goes there, when not, and that the caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from shared import keys, scripts
from shared.api_keys import ApiKey, Scope, digest
from shared.logs import Event
from shared.rates import Rates
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, Taken, appear, serving, settings, until

MODELS = """
models:
  echo: {task: echo, versions: {"1": {}, "2": {}}, traffic: {"1": 1}, aliases: {best: "1"}, limits: {queue: 2},
         fallback: {model: spare}}
  spare: {task: echo, versions: {"1": {}}, fallback: {model: last},
          limits: {queue: 2, input_bytes: 100, per_key: {requests: 1/hour}}}
  last: {task: echo, versions: {"1": {}}}
  bert: {task: text-embedding, versions: {"1": {source: a, token_ids: true}}, fallback: {model: ada, dimensions: 8}}
  ada: {task: text-embedding, versions: {"1": {source: "openai:text-embedding-3-small"}}}
  gpt: {task: chat, versions: {"1": {source: "openai:gpt-4o"}}, fallback: {model: mini}}
  mini: {task: chat, versions: {"1": {source: "openai:gpt-4o-mini"}}}
"""
HEALTH, PREDICT = "/v1/health", "/predict"
ALL = ("echo@1", "echo@2", "spare@1", "last@1", "bert@1", "ada@1")


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    vertex = {"AIP_HEALTH_ROUTE": HEALTH, "AIP_PREDICT_ROUTE": PREDICT, "default_model": "bert"}
    async with serving(settings(redis_url, tmp_path, MODELS, **vertex)) as running:
        yield running


async def submit(api: Api, model: str = "echo", value: Any = 1, headers: Any = None, **more: Any) -> httpx.Response:
    return await api.client.post("/v1/jobs", json={"model": model, "input": value} | more, headers=headers)


async def went_to(api: Api, *asked: str) -> list[tuple[str, str | None]]:
    """Which model has the job, and for which it stands in, for each that was asked for."""
    answers = [await submit(api, model) for model in asked]
    assert {answer.status_code for answer in answers} == {202}
    return [(answer.json()["model"], answer.json()["fallback_for"]) for answer in answers]


async def counted(api: Api) -> dict[tuple[str, str], float]:
    """Jobs that went to a fallback, by model and reason."""
    (found,) = [one for one in api.parts.measures.registry().collect() if one.name == "ml_fallbacks"]
    samples = [one for one in found.samples if one.name.endswith("_total")]
    return {(one.labels["model"], one.labels["reason"]): one.value for one in samples}


async def answered(hands: Hands, asked: Any, output: Any) -> tuple[httpx.Response, Taken]:
    """The answer, and the job as it came to the worker."""
    call = asyncio.create_task(asked)
    (job,) = await hands.take()
    await hands.finish(job, Outcome(State.SUCCEEDED, output=output))
    return await call, job


# When ---------------------------------------------------------------------------------------------


async def test_no_worker(api: Api, store: redis.Redis, hands: Hands, caplog: pytest.LogCaptureFixture) -> None:
    appear(store, "w1", "spare@1")
    with caplog.at_level("INFO", "ml.api"):
        answer = await submit(api)
    job = answer.json()
    assert (answer.status_code, job["model"], job["version"], job["fallback_for"]) == (202, "spare", "1", "echo")
    assert answer.headers["ml-fallback-for"] == "echo"
    (told,) = [record.fields for record in caplog.records if record.msg == Event.JOB_FELL_BACK.value]  # type: ignore[attr-defined]
    expected = {"job_id": job["id"], "model": "echo", "to": "spare@1", "reason": "no_worker"}
    assert expected.items() <= told.items()
    assert await counted(api) == {("echo", "no_worker"): 1}
    (taken,) = await hands.take()
    assert (taken.job_id, taken.kwargs["model"]) == (job["id"], "spare")
    await hands.finish(taken)
    ended = (await api.client.get(f"/v1/jobs/{job['id']}")).json()
    assert (ended["state"], ended["output"], ended["fallback_for"]) == ("succeeded", 1, "echo")
    (listed,) = (await api.client.get("/v1/jobs")).json()["data"]
    assert listed["fallback_for"] == "echo"
    output = await api.client.get(f"/v1/jobs/{job['id']}/output")
    assert (output.headers["ml-model"], output.headers["ml-fallback-for"]) == ("spare@1", "echo")
    events = (await api.client.get(f"/v1/jobs/{job['id']}/events")).text
    assert events.count('"fallback_for":"echo"') == 3


async def test_a_full_queue(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", *ALL)
    expected = [("echo", None), ("echo", None), ("spare", "echo"), ("spare", "echo")]
    assert await went_to(api, "echo", "echo", "echo", "echo") == expected
    assert await counted(api) == {("echo", "queue_full"): 2}
    refused = await submit(api)
    assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
    assert "echo@1" in refused.json()["detail"], "both are full: what was asked for says so, no third is asked"
    assert "ml-fallback-for" not in refused.headers
    assert store.llen(keys.queue_list("ml.last.1", keys.NORMAL)) == 0


async def test_who_is_served_and_has_room_needs_none(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", *ALL)
    answer = await submit(api)
    assert (answer.json()["model"], answer.json()["fallback_for"]) == ("echo", None)
    assert "ml-fallback-for" not in answer.headers
    assert await counted(api) == {}


async def test_the_other_refuses_too(api: Api, store: redis.Redis) -> None:
    """Then it is as if there were none: without a worker jobs wait for one."""
    appear(store, "w1", "spare@1", "last@1")
    large = await submit(api, value="x" * 200)
    assert (large.status_code, large.json()["model"]) == (202, "echo"), "more than spare takes"
    assert await went_to(api, "echo", "echo", "echo") == [("spare", "echo"), ("spare", "echo"), ("echo", None)]
    refused = await submit(api)
    assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
    assert "echo@1" in refused.json()["detail"]


async def test_a_fallback_that_cannot_run_is_none(api: Api, store: redis.Redis) -> None:
    assert await went_to(api, "echo") == [("echo", None)], "no worker has either"
    appear(store, "w1", "spare@1")
    await until(lambda: served(api, "spare@1"), "the fallback has a worker")
    assert (await api.client.post("/v1/models/spare/pause")).status_code == 200
    assert await went_to(api, "echo") == [("echo", None)]
    await api.client.post("/v1/models/spare/resume")
    assert await went_to(api, "echo") == [("spare", "echo")]


async def test_a_paused_model_has_workers(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", *ALL)
    await api.client.post("/v1/models/echo/pause")
    assert await went_to(api, "echo") == [("echo", None)]


async def test_one_step_and_no_further(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", "last@1")
    assert await went_to(api, "echo", "spare") == [("echo", None), ("last", "spare")]


async def served(api: Api, ref: str) -> int:
    return (await api.parts.presence.workers()).serves(ref)


# When not -----------------------------------------------------------------------------------------


async def test_a_pinned_version_is_that_one(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", "spare@1", "ada@1")
    assert await went_to(api, "echo@1", "echo@best") == [("echo", None), ("echo", None)]
    pinned = await submit(api, version="2")
    assert (pinned.json()["model"], pinned.json()["version"]) == ("echo", "2")
    full = await submit(api, "echo@1")
    assert (full.status_code, full.json()["code"]) == (503, "queue_full")


async def test_batches_have_none(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", "spare@1")
    batch = await api.client.post("/v1/batches", json={"model": "echo", "inputs": [1, 2]})
    assert (batch.status_code, batch.json()["model"]) == (202, "echo")


async def test_token_ids_are_the_models_own(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", "ada@1")
    for value in ({"text": [1, 2]}, {"texts": ["a", [1]]}, [{"text": "a"}, {"text": [1]}]):
        answer = await submit(api, "bert", value)
        assert (answer.status_code, answer.json()["model"]) == (202, "bert")
    for value in ({"text": "a"}, {"texts": ["a", "b"]}, [{"text": "a"}]):
        assert (await submit(api, "bert", value)).json()["model"] == "ada"


async def test_a_model_that_has_gone(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", "spare@1", "last@1")
    assert (await api.client.delete("/v1/models/spare")).status_code == 200
    assert await went_to(api, "echo") == [("echo", None)]


async def test_it_changes_without_a_load(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", "last@1")
    model = {"task": "echo", "versions": {"1": {}, "2": {}}, "traffic": {"1": 1}}
    put = await api.client.put("/v1/models/echo", json=model | {"fallback": {"model": "last"}})
    assert (put.status_code, [one["path"] for one in put.json()["changes"]]) == (
        200,
        ["echo.aliases.best", "echo.limits.queue", "echo.fallback.model"],
    )
    assert await went_to(api, "echo") == [("last", "echo")]
    for name, told in (("nope", "there is no model 'nope'"), ("echo", "itself"), ("bert", "text-embedding, not echo")):
        refused = await api.client.put("/v1/models/echo", json=model | {"fallback": {"model": name}})
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/fallback")
        assert told in refused.json()["errors"][0]["message"]
    refused = await api.client.put("/v1/models/echo", json=model | {"fallback": {"model": "last", "dimensions": 3}})
    assert (refused.status_code, "fallback.dimensions" in refused.text) == (422, True)


async def test_keys(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    """Who may not use the fallback gets none; who may is held to that model's limits, and counted once by its own."""
    scopes = frozenset({Scope.SUBMIT, Scope.READ})
    owners = {
        "few": ApiKey(name="few", scopes=scopes, models=frozenset({"echo"})),
        "all": ApiKey(name="all", scopes=scopes, limits=Rates(requests="8/hour")),
    }
    for secret, key in owners.items():
        store.hset(keys.KEYS, digest(secret), key.model_dump_json())
    async with serving(settings(redis_url, tmp_path, MODELS, auth="on")) as api:
        appear(store, "w1", "spare@1")
        few, everything = {"X-API-Key": "few"}, {"X-API-Key": "all"}
        one = await submit(api, headers=few)
        assert (one.status_code, one.json().get("model")) == (202, "echo"), one.text
        answers = [await submit(api, headers=everything) for _ in range(3)]
        assert [answer.json().get("model") for answer in answers] == ["spare", "echo", None], "spare: 1/hour"
        assert (answers[2].status_code, answers[2].json()["code"]) == (503, "queue_full")
        assert answers[0].headers["ratelimit"].startswith('"requests";r=7;')
        other = await submit(api, "last", headers=everything)
        assert other.headers["ratelimit"].startswith('"requests";r=4;'), "four calls so far, each counted once"


async def test_a_full_queue_counts_once(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    key = ApiKey(name="all", scopes=frozenset({Scope.SUBMIT}), limits=Rates(requests="8/hour"))
    store.hset(keys.KEYS, digest("all"), key.model_dump_json())
    async with serving(settings(redis_url, tmp_path, MODELS, auth="on")) as api:
        appear(store, "w1", *ALL)
        answers = [await submit(api, headers={"X-API-Key": "all"}) for _ in range(4)]
        assert [answer.json().get("model") for answer in answers] == ["echo", "echo", "spare", None], "spare: 1/hour"
        assert answers[3].json()["code"] == "queue_full", "of the model that was asked for, not the other's limit"
        assert [answer.headers["ratelimit"].split(";")[1] for answer in answers[:3]] == ["r=7", "r=6", "r=5"]


# Told, by each face ---------------------------------------------------------------------------------


async def test_the_faces_that_wait(api: Api, store: redis.Redis, hands: Hands) -> None:
    appear(store, "w1", "spare@1", "ada@1")
    post = api.client.post
    for path in ("/inference", "/invocations"):
        answer, job = await answered(hands, post(path, json={"model_type": "bert", "data": {"text": "x"}}), [1.0])
        assert (answer.json()["model"], answer.json()["fallback_for"]) == ("ada", "bert")
        assert (answer.headers["ml-model"], answer.headers["ml-fallback-for"]) == ("ada@1", "bert")
        assert job.kwargs["parameters"] == {"dimensions": 8}
    row = [0.5, 1.0]
    answer, _ = await answered(hands, post("/v1/embeddings", json={"model": "bert", "input": "x"}), {"embedding": row})
    assert (answer.json()["model"], answer.headers["ml-fallback-for"]) == ("ada", "bert")
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x"]}
    asked = post("/v2/models/bert/infer", json={"inputs": [tensor]})
    answer, _ = await answered(hands, asked, [{"embedding": row}])
    assert (answer.json()["model_name"], answer.headers["ml-fallback-for"]) == ("ada", "bert")
    answer, _ = await answered(hands, post(PREDICT, json={"instances": ["x"]}), [{"embedding": row}])
    assert (answer.json()["predictions"], answer.headers["ml-fallback-for"]) == ([{"embedding": row}], "bert")
    asked = post("/v2/models/bert/versions/1/infer", json={"inputs": [tensor]})
    answer, job = await answered(hands, asked, [{"embedding": row}])
    assert (answer.json()["model_name"], job.kwargs["model"]) == ("bert", "bert"), "a pinned version"


async def test_a_failure_is_told_too(api: Api, store: redis.Redis, hands: Hands) -> None:
    appear(store, "w1", "spare@1")
    call = asyncio.create_task(api.client.post("/inference", json={"model_type": "echo", "data": 1}))
    (job,) = await hands.take()
    await hands.finish(job, Outcome(State.FAILED, code="predict_error", message="no"))
    assert ((await call).status_code, (await call).headers["ml-fallback-for"]) == (500, "echo")


async def test_dimensions(api: Api, store: redis.Redis, hands: Hands) -> None:
    appear(store, "w1", "ada@1")
    for asked, expected in (
        ({}, {"dimensions": 8}),
        ({"dimensions": 4, "normalize": True}, {"dimensions": 4, "normalize": True}),
        ({"dimensions": None}, {"dimensions": 8}),
    ):
        await submit(api, "bert", {"text": "x"}, parameters=asked)
        (taken,) = await hands.take()
        assert taken.kwargs["parameters"] == expected
        await hands.finish(taken)


async def test_a_chat(api: Api, store: redis.Redis, hands: Hands) -> None:
    appear(store, "w1", "mini@1")
    body = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}
    output = {"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    answer, taken = await answered(hands, api.client.post("/v1/chat/completions", json=body), output)
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "hello")
    assert taken.kwargs["model"] == "mini"
    assert (answer.headers["ml-model"], answer.headers["ml-fallback-for"]) == ("mini@1", "gpt")


# Idempotency ----------------------------------------------------------------------------------------


async def test_a_key_means_the_job_wherever_it_went(api: Api, store: redis.Redis, hands: Hands) -> None:
    appear(store, "w1", "ada@1")
    headers, value = {"Idempotency-Key": "k"}, {"text": "x"}
    first = (await submit(api, "bert", value, headers)).json()
    assert (first["model"], first["fallback_for"]) == ("ada", "bert")
    again = (await submit(api, "bert", value, headers)).json()
    assert (again["id"], again["model"]) == (first["id"], "ada")
    assert await counted(api) == {("bert", "no_worker"): 1}
    appear(store, "w2", "bert@1")
    await until(lambda: served(api, "bert@1"), "the model has a worker")
    waiting = asyncio.create_task(submit(api, "bert", value, headers | {"Prefer": "wait=5"}))
    await until(lambda: len(api.parts.waiter) == 1, "the resubmit waits for the first job")
    (taken,) = await hands.take()
    await hands.finish(taken)
    answer = await waiting
    assert (answer.json()["id"], answer.json()["fallback_for"]) == (first["id"], "bert")
    assert answer.headers["ml-fallback-for"] == "bert"
    other = await submit(api, "bert", {"text": "y"}, headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


async def test_a_key_of_a_job_that_the_model_took_itself(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", *ALL)
    headers = {"Idempotency-Key": "k"}
    first = (await submit(api, headers=headers)).json()
    assert await went_to(api, "echo", "echo") == [("echo", None), ("spare", "echo")], "the queue is full"
    assert (await submit(api, headers=headers)).json()["id"] == first["id"]
    store.delete(keys.card_key("echo@1", "w1"))
    await until(lambda: unserved(api, "echo@1"), "no worker has it")
    again = await submit(api, headers=headers)
    assert (again.json()["id"], again.json()["model"]) == (first["id"], "echo")
    assert "ml-fallback-for" not in again.headers


async def unserved(api: Api, ref: str) -> bool:
    return not await served(api, ref)


async def test_a_retry_of_a_dead_letter_is_the_fallbacks_too(api: Api, store: redis.Redis, hands: Hands) -> None:
    appear(store, "w1", "spare@1")
    await submit(api)
    (taken,) = await hands.take()
    await hands.call(scripts.bury(taken.job_id, "rejected"))
    (letter,) = (await api.client.get("/v1/dead")).json()["letters"]
    again = (await api.client.post(f"/v1/dead/{letter['id']}/retry")).json()
    assert (again["retried_from"], again["model"], again["fallback_for"]) == (taken.job_id, "spare", "echo")
    assert (await api.client.get(f"/v1/jobs/{again['id']}")).json()["fallback_for"] == "echo"
