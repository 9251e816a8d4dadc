"""Health, readiness, metrics, models, OpenAPI."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from shared import keys
from tests.api_stack import Api, Hands, appear, serving, settings, until


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path)) as running:
        yield running


async def test_live_and_ready(api: Api, store: redis.Redis) -> None:
    assert (await api.client.get("/livez")).status_code == 200
    assert (await api.client.get("/readyz")).status_code == 200
    assert 0 < store.ttl(keys.PROBE) <= 10
    assert (await api.client.get("/readyz?model=nope")).status_code == 404
    assert (await api.client.get("/readyz")).json()["checks"] == {
        "process": {"state": "ok"},
        "redis": {"state": "ok"},
        "registry": {"state": "ok"},
    }
    none = await api.client.get("/readyz?model=bert")
    assert (none.status_code, none.json()["code"]) == (503, "model_unavailable")
    assert none.json()["detail"] == "model:bert@1: no living worker serves it"
    assert none.json()["checks"]["redis"] == {"state": "ok"}
    assert none.json()["checks"]["model:bert@1"] == {"state": "missing", "detail": "no living worker serves it"}
    appear(store, "w1", "bert@1")
    appear(store, "w2", "own@1", state="loading")
    await until(lambda: ready(api, "bert"), "bert is served")
    assert await ready(api, "bert@1")
    assert not await ready(api, "bert@best")
    assert not await ready(api, "own")


async def ready(api: Api, model: str) -> bool:
    return (await api.client.get(f"/readyz?model={model}")).status_code == 200


async def test_health(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", "bert@1", "bert@2")
    appear(store, "w2", "bert@1")
    await api.client.post("/v1/jobs", json={"model": "bert", "input": {"text": "x"}})
    body = (await api.client.get("/health")).json()
    assert (body["status"], body["workers"], body["queue_depth"]) == ("ok", 2, 1)
    versions = {"1": {"workers": 2}, "2": {"workers": 1}}
    assert body["models"]["bert"] == {"workers": 3, "queue_depth": 1, "running": 0, "versions": versions}
    assert body["models"]["echo"]["workers"] == 0


async def test_metrics(api: Api, hands: Hands) -> None:
    for n in range(3):
        await api.client.post("/v1/jobs", json={"model": "echo", "input": n})
    first, _ = await hands.take(2)
    await hands.finish(first)
    answer = await api.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = await scrape(api)
    assert samples["ml_queue_depth", "echo", "1"] == 1
    counts = {state: samples["ml_jobs", "echo", state, "1"] for state in ("queued", "running", "succeeded", "failed")}
    assert counts == {"queued": 1, "running": 1, "succeeded": 1, "failed": 0}
    buckets = [samples["ml_job_seconds_bucket", le, "echo", "1"] for le in ("0.005", "60.0", "+Inf")]
    assert (buckets[1:], buckets[0] <= 1) == ([1, 1], True)
    assert samples["ml_job_seconds_count", "echo", "1"] == 1
    assert 0 <= samples["ml_job_seconds_sum", "echo", "1"] < 20
    assert samples["ml_job_seconds_count", "bert", "2"] == 0
    assert samples[("ml_store_up",)] == 1
    assert samples[("process_resident_memory_bytes",)] > 0


async def test_calls_are_counted_by_route_and_refusals_by_reason(api: Api) -> None:
    for n in range(3):
        await api.client.post("/v1/jobs", json={"model": "tiny", "input": n})  # takes two
    await api.client.post("/v1/jobs", json={"model": "nope", "input": 1})
    await api.client.get("/v1/jobs/1")
    await api.client.get("/v1/jobs/2")
    await api.client.get("/some/where")
    await api.client.request("PROPFIND", "/some/where/else")
    samples = await scrape(api)
    assert samples["ml_http_requests_total", "POST", "/v1/jobs", "202"] == 2
    assert samples["ml_http_requests_total", "POST", "/v1/jobs", "503"] == 1
    assert samples["ml_http_requests_total", "GET", "/v1/jobs/{job_id}", "404"] == 2
    assert samples["ml_http_requests_total", "GET", "other", "404"] == 1
    assert samples["ml_http_requests_total", "other", "other", "404"] == 1
    assert samples["ml_http_request_seconds_count", "/v1/jobs"] == 4
    refusals = {key[1]: value for key, value in samples.items() if key[0] == "ml_refusals_total"}
    assert refusals == {"queue_full": 1, "model_not_found": 1}, "a read that finds nothing is no refusal"


async def test_accepted_jobs_are_counted_once_and_by_their_version(api: Api, hands: Hands) -> None:
    name = "ml_jobs_accepted_total"
    assert (await scrape(api))[name, "echo", "1"] == 0, "there before the first: a rate needs it"
    for _ in range(2):  # the second is the first one's
        await api.client.post("/v1/jobs", json={"model": "echo", "input": 1}, headers={"Idempotency-Key": "once"})
    await api.client.post("/v1/jobs", json={"model": "bert@2", "input": {"text": "x"}})
    await api.client.post("/v1/jobs", json={"model": "bert", "input": {"text": 5}})  # refused
    waiting = asyncio.create_task(api.client.post("/inference", json={"model_type": "cnn", "data": {"image": "AA=="}}))
    for taken in await hands.take(3):
        await hands.finish(taken)
    assert (await waiting).status_code == 200
    samples = await scrape(api)
    assert {key[1:]: value for key, value in samples.items() if key[0] == name and value} == {
        ("echo", "1"): 1,
        ("bert", "2"): 1,
        ("cnn", "1"): 1,
    }


async def test_what_the_queue_tells(api: Api, hands: Hands, store: redis.Redis) -> None:
    assert (await scrape(api))["ml_queue_oldest_seconds", "tiny", "1"] == 0
    job = (await api.client.post("/v1/jobs", json={"model": "tiny", "input": 1})).json()
    store.hincrby(keys.JOB + job["id"], "created_at", -100_000)
    appear(store, "w1", "tiny@1", "own@1", state="unloaded")
    await until(lambda: served(api, "w1"))
    samples = await scrape(api)
    assert 100 <= samples["ml_queue_oldest_seconds", "tiny", "1"] < 120
    assert samples["ml_queue_limit", "tiny", "1"] == 2
    assert samples["ml_serving_workers", "tiny", "1"] == 0
    waiting = asyncio.create_task(api.client.get(f"/v1/jobs/{job['id']}?wait=20"))
    await until(lambda: waits(api, 1), "a call waits")
    (taken,) = await hands.take()
    assert (await scrape(api))["ml_queue_oldest_seconds", "tiny", "1"] == 0
    await hands.finish(taken)
    assert (await waiting).json()["state"] == "succeeded"
    assert await waits(api, 0)


async def served(api: Api, worker: str) -> bool:
    return any(key[:2] == ("ml_worker_info", "") and worker in key for key in await scrape(api))


async def waits(api: Api, count: int) -> bool:
    return (await scrape(api))[("ml_waiting_calls",)] == count


async def scrape(api: Api) -> dict[tuple[str, ...], float]:
    """The value by the metric's name and its labels' values, these in the order of their names."""
    text = (await api.client.get("/metrics")).text
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_prometheus_finds_the_workers(api: Api, store: redis.Redis) -> None:
    assert (await api.client.get("/metrics/workers")).json() == []
    appear(store, "w1", "bert@1")
    for process, started_at, place in (("old", 1, "10.0.0.1:1"), ("new", 2, "10.0.0.1:2")):
        sign = {"process": process, "worker": "w2", "started_at": started_at, "metrics": place, "state": "ready"}
        store.set(f"{keys.WORKER}{process}", orjson.dumps(sign), ex=60)
        store.zadd(keys.WORKERS, {process: 1})
    expected = [{"targets": ["10.0.0.1:2"], "labels": {"__meta_ml_worker": "w2"}}]

    async def found() -> bool:
        return (await api.client.get("/metrics/workers")).json() == expected

    await until(found, "w1 serves no metrics, and of w2 the last start counts")


async def test_models(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", "own@1", "bert@1")
    listed = (await api.client.get("/v1/models")).json()
    assert listed["object"] == "list"
    models = {model["id"]: model for model in listed["data"]}
    assert set(models) == {"bert", "cnn", "echo", "own", "tiny"}
    bert = models["bert"]
    assert (bert["object"], bert["owned_by"], bert["task"], bert["ready"]) == (
        "model",
        "ml-service",
        "text-embedding",
        1,
    )
    assert isinstance(bert["created"], int)
    assert [(v["version"], v["ready"], v["traffic"]) for v in bert["versions"]] == [("1", 1, 1.0), ("2", 0, 0.0)]
    assert bert["versions"][0]["workers"][0]["device"] == "cpu"
    assert bert["versions"][0]["workers"][0]["calibration"] == {"max_cost": 512}
    assert bert["input_schema"]["anyOf"]
    assert (models["own"]["task"], models["own"]["example"]) == ("custom", {"a": 1})
    assert models["own"]["input_schema"] == {"type": "object"}

    assert (await api.client.get("/v1/models/bert")).json() == bert
    pinned = (await api.client.get("/v1/models/bert@best")).json()
    assert (pinned["id"], [v["version"] for v in pinned["versions"]]) == ("bert@2", ["2"])


@pytest.mark.parametrize("name", ["nope", "some/where", "bert@9"])
async def test_unknown_models_in_openais_shape(api: Api, name: str) -> None:
    answer = await api.client.get(f"/v1/models/{name}")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"], error["param"]) == (
        404,
        "model_not_found",
        "invalid_request_error",
        None,
    )
    assert error["message"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/models", "GET, PUT"),
        ("/v1/models/acme/bert", "DELETE, GET, PUT"),
        ("/v1/models/acme/bert/rollback", "POST"),
        ("/v1/models/bert/versions/2", "DELETE, PUT"),
        ("/inference", "POST"),
    ],
)
async def test_allow_tells_of_all_methods_of_a_path(api: Api, path: str, allowed: str) -> None:
    answer = await api.client.request("TRACE", path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


async def test_openapi(api: Api) -> None:
    told = (await api.client.get("/openapi.json")).json()
    paths = told["paths"]
    assert {"/inference", "/v1/jobs", "/v1/jobs/{job_id}", "/v1/models", "/health", "/readyz"} <= paths.keys()
    for path in ("/inference", "/v1/jobs"):
        post = paths[path]["post"]
        content = post["requestBody"]["content"]
        assert {"application/json", "image/*", "multipart/form-data"} == content.keys()
        assert content["application/json"]["schema"]["examples"]
        problem = post["responses"]["422"]["content"]
        assert problem == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    references = {part for part in str(told).split("'") if part.startswith("#/components/schemas/")}
    assert {reference.rpartition("/")[2] for reference in references} <= told["components"]["schemas"].keys()
    example = paths["/inference"]["post"]["requestBody"]["content"]["application/json"]["schema"]["examples"][0]
    answer = await api.client.post("/inference", json=example, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    assert (await api.client.get("/docs")).status_code == 200


def test_the_api_imports_nothing_heavy(repository: Path) -> None:
    program = (
        "import sys, api.app, api.__main__\n"
        "heavy = ('torch', 'transformers', 'numpy', 'celery', 'worker', 'kombu', 'PIL')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
