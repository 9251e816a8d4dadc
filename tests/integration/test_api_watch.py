"""`/v1/watch` on a real server: one look a second for all who watch, none while nobody does; what is told is so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from api.cached import Cached
from shared import keys
from tests.api_stack import Api, appear, serving, settings, until


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path)) as running:
        yield running


async def seen(api: Api) -> dict[str, Any]:
    """The next event."""
    told: dict[str, Any] = orjson.loads((await api.app.state.watch.event()).decode().partition("data: ")[2])
    return told


def of(told: dict[str, Any], ref: str) -> dict[str, Any]:
    (found,) = [one for one in told["versions"] if f"{one['model']}@{one['version']}" == ref]
    return dict(found)


async def test_queues_workers_and_refusals(api: Api, store: redis.Redis) -> None:
    appear(store, "w1", "bert@1")
    for _ in range(3):
        await api.client.post("/v1/jobs", json={"model": "bert", "input": {"text": "x"}})
    await api.client.post("/v1/jobs", json={"model": "bert", "input": {"text": ""}})
    told = await seen(api)
    assert (told["up"], told["dead_letters"], told["webhooks_waiting"]) == (True, 0, 0)
    bert = of(told, "bert@1")
    assert (bert["queued"], bert["running"], bert["succeeded"], bert["workers"]) == (3, 0, 0, 1)
    assert bert["oldest_s"] > 0
    assert bert["latency"] == [0] * (len(keys.LATENCY_BOUNDS_MS) + 1)
    assert told["refusals"]["invalid_input"] == 1
    assert [one["name"] for one in told["workers"]] == ["w1"]


async def test_all_who_watch_share_a_look(api: Api) -> None:
    first, *others = await asyncio.gather(*(api.app.state.watch.event() for _ in range(50)))
    assert set(others) == {first}


async def test_a_stream_ends_with_its_client_and_with_the_process(api: Api) -> None:
    sent: list[dict[str, Any]] = []
    ended = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    def scope() -> dict[str, Any]:
        return {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": "/v1/watch",
            "query_string": b"",
            "headers": [],
            "client": ("127.0.0.1", 1),
        }

    stream = asyncio.create_task(api.app(scope(), receive, send))
    await until(lambda: any(b"event: seen" in one.get("body", b"") for one in sent), "an event")
    assert (b"content-type", b"text/event-stream; charset=utf-8") in sent[0]["headers"]
    ended.set()
    await asyncio.wait_for(stream, 10)
    ended.clear()
    other = asyncio.create_task(api.app(scope(), receive, send))
    await until(lambda: sum(b"event: seen" in one.get("body", b"") for one in sent) > 1, "another")
    api.parts.drain()
    await asyncio.wait_for(other, 10)
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_what_is_dear_is_read_once_and_an_error_is_not_kept() -> None:
    read = 0

    async def look() -> int:
        nonlocal read
        read += 1
        await asyncio.sleep(0)
        if read == 1:
            raise ValueError("away")
        return read

    cached = Cached(60, look)
    with pytest.raises(ValueError, match="away"):
        await cached.get()
    assert await asyncio.gather(*(cached.get() for _ in range(5))) == [2] * 5
    old = Cached(0, look)
    assert [await old.get(), await old.get()] == [3, 4]
