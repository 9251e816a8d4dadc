"""A full queue, a full Redis, a Redis that goes and comes, many who wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import redis
import redis.asyncio

from local.embedded import EmbeddedServer
from shared import keys
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, raw_call, serving, settings, until


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, inference_wait_s=20)) as running:
        yield running


async def submit(api: Api, model: str = "tiny") -> httpx.Response:
    return await api.client.post("/v1/jobs", json={"model": model, "input": 1})


async def test_a_full_queue_is_503_with_an_honest_retry_after(api: Api, hands: Hands) -> None:
    assert [(await submit(api)).status_code for _ in range(2)] == [202, 202]
    full = await submit(api)
    assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (503, "queue_full", "1")
    assert "tiny@1" in full.json()["detail"]
    assert (await submit(api, "echo")).status_code == 202, "other models' queues are not full"
    for taken in await hands.take(3):
        await hands.finish(taken)
    assert (await submit(api)).status_code == 202


async def test_500_wait_on_one_process(api: Api, hands: Hands) -> None:
    calls = [
        asyncio.create_task(raw_call(api.port, "/inference", {"model_type": "echo", "data": n})) for n in range(500)
    ]
    taken = await hands.take(500)
    assert len(api.parts.waiter) == 500
    began = time.monotonic()
    await hands.finish_all(taken)
    answers = await asyncio.gather(*calls)
    assert time.monotonic() - began < 5, "woken by the news, not by the second look"
    assert [(status, body["output"]) for status, body in answers] == [(200, n) for n in range(500)]
    assert len(api.parts.waiter) == 0


async def test_a_lost_subscription_loses_no_news(api: Api, hands: Hands, store: redis.Redis) -> None:
    calls = [
        asyncio.create_task(api.client.post("/inference", json={"model_type": "echo", "data": n})) for n in range(20)
    ]
    taken = await hands.take(20)
    for one in taken[:10]:
        await hands.finish(one)
    # In one step: nobody is subscribed when these jobs end, so their news go nowhere.
    with store.pipeline(transaction=True) as pipe:
        pipe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        pipe.publish(api.parts.waiter.channel, "x")
        killed, heard = pipe.execute()
    assert (killed >= 1, heard) == (True, 0)
    for one in taken[10:]:
        await hands.finish(one)
    answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200] * 20
    assert [answer.json()["output"] for answer in answers] == list(range(20))


async def test_overdue_jobs_end_without_any_worker(api: Api) -> None:
    job = (await api.client.post("/v1/jobs", json={"model": "echo", "input": 1, "deadline_s": 0.2})).json()
    ended = (await api.client.get(f"/v1/jobs/{job['id']}?wait=10")).json()
    assert (ended["state"], ended["error"]["code"]) == ("failed", "deadline_exceeded")


# A Redis of its own: it is filled, stopped and started --------------------------------------------


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "own-redis") as running:
        yield running


@pytest.fixture
async def own_api(own_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(own_server.url, tmp_path, inference_wait_s=20)) as running:
        yield running


async def test_a_full_redis_refuses_and_still_finishes(own_api: Api, own_server: EmbeddedServer) -> None:
    hands = Hands.on(own_api.parts.settings)
    call = asyncio.create_task(own_api.client.post("/inference", json={"model_type": "echo", "data": 1}))
    (taken,) = await hands.take()
    await hands.client.config_set("maxmemory", "1mb")
    refused = await submit(own_api, "echo")
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    big = await own_api.client.post("/v1/jobs", json={"model": "echo", "input": "x" * 50_000})
    assert (big.status_code, big.json()["code"]) == (503, "store_unavailable")
    assert (await own_api.client.get("/readyz")).status_code == 503
    assert (await own_api.client.get("/health")).json()["status"] == "ok"
    await hands.finish(taken)
    assert (await call).status_code == 200
    await hands.client.config_set("maxmemory", "0")
    assert (await submit(own_api, "echo")).status_code == 202
    assert [key async for key in hands.client.scan_iter(keys.PAYLOAD + "*")] == []
    await hands.client.aclose()


async def test_a_redis_that_is_busy_is_one_that_is_away(own_api: Api, own_server: EmbeddedServer) -> None:
    """It answers all but SCRIPT KILL with BUSY while somebody's script runs on and on."""
    file = (await own_api.client.post("/v1/files", content=b"x")).json()["id"]
    job = (await submit(own_api, "echo")).json()["id"]
    async with redis.asyncio.Redis.from_url(own_server.url) as client:

        async def is_busy() -> bool:
            try:
                return not await client.ping()
            except redis.ResponseError as error:
                return str(error).startswith("BUSY ")

        await client.config_set("busy-reply-threshold", 1)
        script = asyncio.ensure_future(client.eval("while true do end", 0))
        try:
            await until(is_busy, "the script runs")
            for path in (f"/v1/files/{file}", f"/v1/jobs/{job}", "/v1/batches", f"/v1/jobs/{job}/deliveries"):
                answer = await own_api.client.get(path)
                assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), path
        finally:
            await client.script_kill()
            await asyncio.gather(script, return_exceptions=True)
    assert (await own_api.client.get(f"/v1/files/{file}")).status_code == 200


async def test_a_redis_that_restarts(own_api: Api, own_server: EmbeddedServer) -> None:
    hands = Hands.on(own_api.parts.settings)
    waiting = asyncio.create_task(own_api.client.post("/inference", json={"model_type": "echo", "data": 1}))
    (taken,) = await hands.take()
    own_server.stop()
    for method, path in (
        ("POST", "/v1/jobs"),
        ("GET", f"/v1/jobs/{taken.job_id}"),
        ("DELETE", f"/v1/jobs/{taken.job_id}"),
    ):
        answer = await own_api.client.request(method, path, json={"model": "echo", "input": 1})
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert (await own_api.client.get("/readyz")).status_code == 503
    assert (await own_api.client.get("/livez")).status_code == 200
    health = await own_api.client.get("/health")
    told = health.json()
    assert (health.status_code, told["status"]) == (200, "degraded")
    unknown = {"workers": None, "queue_depth": None}
    assert {name: told[name] for name in unknown} == told["models"]["echo"] == unknown, "0 would be believed"
    assert "ml_store_up 0.0" in (await own_api.client.get("/metrics")).text
    assert (await own_api.client.get("/v1/models")).status_code == 200
    assert not waiting.done()

    own_server.start()
    await until(lambda: is_ready(own_api), "the API finds Redis again")
    assert (await submit(own_api, "echo")).status_code == 202
    await hands.client.connection_pool.disconnect()
    await hands.finish(taken, Outcome(State.SUCCEEDED, output="after"))
    assert (await waiting).json()["output"] == "after", "who waited through the restart gets the answer"
    await hands.client.aclose()


async def is_ready(api: Api) -> bool:
    return (await api.client.get("/readyz")).status_code == 200


async def test_the_api_starts_before_redis(tmp_path: Path) -> None:
    own = EmbeddedServer(tmp_path / "late")
    own.start()
    own.stop()
    async with serving(settings(own.url, tmp_path)) as api:
        assert (await submit(api, "echo")).status_code == 503
        own.start()
        await until(lambda: is_ready(api), "the API finds Redis")
        call = asyncio.create_task(api.client.post("/inference", json={"model_type": "echo", "data": 1}))
        hands = Hands.on(api.parts.settings)
        await hands.finish((await hands.take())[0])
        assert (await call).status_code == 200
        await hands.client.aclose()
    own.stop()


async def test_accepted_stays_accepted_when_redis_goes_while_waiting(own_api: Api, own_server: EmbeddedServer) -> None:
    asked = {"model": "echo", "input": 1, "labels": {"a": "b"}}
    waiting = asyncio.create_task(own_api.client.post("/v1/jobs", json=asked, headers={"Prefer": "wait=1"}))

    async def accepted() -> bool:
        return bool((await own_api.client.get("/health")).json()["queue_depth"] == 1)

    await until(accepted, "it is accepted")
    own_server.stop()
    answer = await waiting
    job = answer.json()
    assert (answer.status_code, job["state"], job["labels"]) == (202, "queued", {"a": "b"})
    own_server.start()
    await until(lambda: is_ready(own_api), "the API finds Redis again")
    assert (await own_api.client.get(answer.headers["location"])).json() | {"waiting_for": None} == job
