"""The path of a job through real processes: API, Redis, worker, real models."""

from __future__ import annotations

import asyncio
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from shared import keys
from tests.conftest import wait_until


class SeedSettings:
    """`app.config.settings` of the seed's backend."""

    ML_SERVICE_URL = ""


settings = SeedSettings()


class MLServiceClient:
    """The backend's client, verbatim: it must keep working."""

    def __init__(self):  # type: ignore[no-untyped-def]
        self.base_url = settings.ML_SERVICE_URL  # e.g., "http://ml-service:8001"
        self.client = httpx.AsyncClient(timeout=30.0)

    async def inference(self, model_type: str, data: dict):  # type: ignore[no-untyped-def,type-arg]
        response = await self.client.post(f"{self.base_url}/inference", json={"model_type": model_type, "data": data})
        response.raise_for_status()
        return response.json()

    async def close(self):  # type: ignore[no-untyped-def]
        await self.client.aclose()


async def test_the_seeds_client_runs_verbatim(stack: str) -> None:
    settings.ML_SERVICE_URL = stack
    client = MLServiceClient()
    answer = await client.inference("bert", {"text": "hi"})
    await client.close()
    assert len(answer["output"]["embedding"]) == 384
    assert answer["model"] == "bert"
    assert answer["version"] == "1"


def _cosine(a: list[float], b: list[float]) -> float:
    left, right = np.array(a), np.array(b)
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def test_the_embedding_means_something(http: httpx.Client) -> None:
    texts = ["A cat sits on the mat.", "A kitten is sitting on a rug.", "The stock market fell sharply today."]
    job = http.post("/v1/jobs", json={"model": "bert", "input": {"texts": texts}}, headers={"Prefer": "wait=30"})
    assert job.status_code == 200
    one, like, unlike = job.json()["output"]["embeddings"]
    assert _cosine(one, like) > 0.5
    assert _cosine(one, unlike) < 0.2
    alone = http.post("/inference", json={"model_type": "bert", "data": {"text": texts[0]}}).json()
    assert _cosine(alone["output"]["embedding"], one) > 0.99999


@pytest.mark.parametrize("kind", ["datetime", "uuid", "bytes", "decimal"])
def test_an_input_that_looks_like_one_of_kombus_types_stays_as_it_is(http: httpx.Client, kind: str) -> None:
    """Kombu's JSON writes dates and the like as such objects, and reads them as those."""
    data = {"__type__": kind, "__value__": "2026-01-02T03:04:05"}
    answer = http.post("/inference", json={"model_type": "echo", "data": {"at": data}})
    assert (answer.status_code, answer.json().get("output")) == (200, {"at": data})


def test_many_callers_share_batches(http: httpx.Client) -> None:
    def call(n: int) -> dict[str, Any]:
        body = {"model_type": "echo", "data": {"n": n}, "parameters": {"sleep_ms": 30}}
        answer: dict[str, Any] = http.post("/inference", json=body).json()
        return answer

    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(call, range(64)))
    assert [answer["output"] for answer in answers] == [{"n": n} for n in range(64)]
    sizes = [answer["timing"]["batch_size"] for answer in answers]
    assert max(sizes) > 4
    assert max(sizes) <= 16


def test_submit_then_poll(http: httpx.Client) -> None:
    submitted = http.post("/v1/jobs", json={"model": "echo", "input": [{"a": 1}, {"b": None}]})
    assert submitted.status_code == 202
    url = submitted.headers["Location"]
    done = http.get(url, params={"wait": 20}).json()
    assert done["state"] == "succeeded"
    assert done["output"] == [{"a": 1}, {"b": None}]
    assert done["attempt"] == 1
    assert done["timing"]["worker"] == "w1"
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]


def test_a_bad_item_does_not_hurt_its_neighbours(http: httpx.Client) -> None:
    orders = [{"do": do, "n": n} for n, do in enumerate(["ok", "raise", "ok", "item-error", "ok", "refuse", "ok"])]

    def call(order: dict[str, Any]) -> httpx.Response:
        return http.post("/inference", json={"model_type": "moody", "data": order})

    with ThreadPoolExecutor(8) as threads:
        blocker = threads.submit(call, {"do": "slow"})
        answers = list(threads.map(call, orders))
    assert blocker.result().status_code == 200
    assert [answer.status_code for answer in answers] == [200, 500, 200, 500, 200, 422, 200]
    assert answers[1].json()["code"] == "predict_error"
    assert "told to" in answers[1].json()["detail"]
    assert answers[5].json()["errors"][0]["pointer"] == "/data/do"


def test_a_job_of_many_items_fails_or_is_partial(http: httpx.Client) -> None:
    orders = [{"do": do, "n": n} for n, do in enumerate(["ok", "raise", "ok", "refuse"])]
    wait = {"Prefer": "wait=20"}
    failed = http.post("/v1/jobs", json={"model": "moody", "input": orders}, headers=wait).json()
    assert failed["state"] == "failed"
    assert failed["error"]["errors"][0]["pointer"] == "/3/do"
    body = {"model": "moody", "input": orders, "parameters": {"partial": True}}
    partial = http.post("/v1/jobs", json=body, headers=wait).json()
    assert partial["state"] == "succeeded"
    assert [output and output["n"] for output in partial["output"]] == [0, None, 2, None]
    assert {fault["pointer"]: fault["code"] for fault in partial["errors"]} == {
        "/1": "predict_error",
        "/3/do": "invalid_input",
    }


@pytest.mark.parametrize(
    ("do", "status", "code"),
    [
        ("short", 500, "handler_contract"),
        ("nothing", 500, "handler_contract"),
        ("odd", 500, "handler_contract"),
        ("too-big", 507, "out_of_memory"),
    ],
)
def test_how_a_handler_breaks_its_contract(http: httpx.Client, do: str, status: int, code: str) -> None:
    answer = http.post("/inference", json={"model_type": "moody", "data": {"do": do}})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert http.post("/inference", json={"model_type": "moody", "data": {}}).status_code == 200


def test_out_of_memory_halves_the_batch(http: httpx.Client) -> None:
    orders = [{"do": "memory", "n": n} for n in range(8)]
    body = {"model": "moody", "input": orders}
    job = http.post("/v1/jobs", json=body, headers={"Prefer": "wait=20"}).json()
    assert job["state"] == "succeeded"
    assert [output["n"] for output in job["output"]] == list(range(8))


def test_overlong_text_is_cut_and_told_or_refused(http: httpx.Client) -> None:
    text = "many words " * 400
    cut = http.post("/inference", json={"model_type": "bert", "data": {"text": text}})
    assert cut.json()["output"]["truncated"] is True
    refused = http.post("/inference", json={"model_type": "strict", "data": {"text": text}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/data/text"
    fits = http.post("/inference", json={"model_type": "strict", "data": {"text": "short"}})
    assert "truncated" not in fits.json()["output"]


def test_an_input_beyond_the_inline_limit_travels_beside_the_message(
    http: httpx.Client, stack_store: redis.Redis
) -> None:
    value = {"long": "x" * 100_000}
    job = http.post("/v1/jobs", json={"model": "echo", "input": value}, headers={"Prefer": "wait=20"}).json()
    assert job["output"] == value
    assert not list(stack_store.scan_iter(f"{keys.PAYLOAD}{job['id']}*")), "gone with the outcome"


def test_cancel_while_queued_and_while_running(http: httpx.Client) -> None:
    running = http.post("/v1/jobs", json={"model": "echo", "input": 1, "parameters": {"sleep_ms": 1500}}).json()
    wait_until(lambda: http.get(f"/v1/jobs/{running['id']}").json()["state"] == "running")
    queued = http.post("/v1/jobs", json={"model": "echo", "input": 2}).json()
    assert http.delete(f"/v1/jobs/{queued['id']}").json()["state"] == "canceled"
    assert http.delete(f"/v1/jobs/{running['id']}").json()["state"] == "running"
    ended = http.get(f"/v1/jobs/{running['id']}", params={"wait": 20}).json()
    assert (ended["state"], ended["output"]) == ("canceled", None)
    after = http.post("/inference", json={"model_type": "echo", "data": 3}).json()
    assert after["output"] == 3


def test_a_deadline_that_passes_in_the_queue(http: httpx.Client) -> None:
    http.post("/v1/jobs", json={"model": "echo", "input": 1, "parameters": {"sleep_ms": 2500}})
    late = http.post("/v1/jobs", json={"model": "echo", "input": 2, "deadline_s": 0.5})
    ended = http.get(late.headers["Location"], params={"wait": 20}).json()
    assert (ended["state"], ended["error"]["code"]) == ("failed", "deadline_exceeded")


def test_priority_overtakes(http: httpx.Client) -> None:
    blocker = {"model": "echo", "input": 0, "parameters": {"sleep_ms": 800}}
    wait_until(lambda: http.get("/health").json()["models"]["echo"]["queue_depth"] == 0)
    http.post("/v1/jobs", json=blocker)
    low = [http.post("/v1/jobs", json=blocker | {"priority": "low", "input": n}).json()["id"] for n in range(40)]
    high = http.post("/v1/jobs", json={"model": "echo", "input": "now", "priority": "high"}).json()["id"]
    first = http.get(f"/v1/jobs/{high}", params={"wait": 20}).json()
    assert first["state"] == "succeeded"
    assert http.get(f"/v1/jobs/{low[-1]}").json()["state"] != "succeeded"
    for job_id in low:
        http.delete(f"/v1/jobs/{job_id}")


async def test_many_waiters_at_once(stack: str) -> None:
    """Each on its own connection, all held while the first batches sleep."""
    async with httpx.AsyncClient(base_url=stack, timeout=60, limits=httpx.Limits(max_connections=250)) as client:
        bodies = [{"model_type": "echo", "data": n, "parameters": {"sleep_ms": 20}} for n in range(250)]
        answers = await asyncio.gather(*(client.post("/inference", json=body) for body in bodies))
    assert [answer.json()["output"] for answer in answers] == list(range(250))


def test_a_plain_submit_is_202_however_quick_the_worker(http: httpx.Client) -> None:
    answers = [http.post("/v1/jobs", json={"model": "echo", "input": n}) for n in range(100)]
    assert {answer.status_code for answer in answers} == {202}
    headers = {"Idempotency-Key": answers[0].headers["x-request-id"]}
    first = http.post("/v1/jobs", json={"model": "echo", "input": "k"}, headers=headers)
    http.get(first.headers["Location"], params={"wait": 20})
    again = http.post("/v1/jobs", json={"model": "echo", "input": "k"}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["output"] == "k"


def test_embeddings_as_bytes_are_those_of_the_json(http: httpx.Client) -> None:
    texts = {"texts": ["a queue", "keeps what", "it was given"]}
    octets = {"Accept": "application/octet-stream"}
    asked = http.post("/inference", json={"model_type": "bert", "data": texts}, headers=octets)
    assert asked.status_code == 200, asked.text
    assert (asked.headers["ml-shape"], asked.headers["ml-dtype"]) == ("3,384", "float32")
    assert (asked.headers["content-type"], len(asked.content)) == ("application/octet-stream", 3 * 384 * 4)
    url = asked.headers["location"]
    output = http.get(f"{url}/output")
    assert output.headers["content-type"] == "application/json"
    embeddings = output.json()["embeddings"]
    assert output.json() == http.get(url).json()["output"]
    flat = [number for row in embeddings for number in row]
    assert list(struct.unpack("<1152f", asked.content)) == pytest.approx(flat, abs=1e-7)
    assert http.get(f"{url}/output", headers=octets).content == asked.content
    one = http.post("/inference", json={"model_type": "bert", "data": {"text": "a queue"}}, headers=octets)
    assert one.headers["ml-shape"] == "384"


def test_a_lone_job_asks_redis_three_times(http: httpx.Client, stack_store: redis.Redis) -> None:
    """Submitted, taken and started, finished: nothing else is on its way. (A worker's signs of life come beside.)"""

    def asked() -> int:
        return int(stack_store.info("commandstats")["cmdstat_evalsha"]["calls"])

    def ask() -> None:
        answer = http.post("/inference", json={"model_type": "echo", "data": {"a": 1}})
        assert answer.status_code == 200, answer.text

    ask()  # scripts that the server does not know are asked for twice
    before, jobs = asked(), 30
    for _ in range(jobs):
        ask()
    assert asked() - before < 3.5 * jobs
