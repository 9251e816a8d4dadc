"""Batches of several keys, their limits, and an API that goes on answering while many lines come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from shared.errors import StoreUnavailable
from shared.rates import Rates
from tests.api_stack import Api, Hands, serving, settings, until
from tests.batches import lines, post_lines, work


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path)) as running:
        yield running


def limited(store: redis.Redis, secret: str, **limits: Any) -> dict[str, str]:
    """Headers of a key that has these limits."""
    key = ApiKey(id=secret, name=secret, scopes=frozenset({Scope.SUBMIT, Scope.READ}), limits=Rates(**limits))
    store.hset(keys.KEYS, digest(secret), key.model_dump_json())
    return {"x-api-key": secret, "content-type": "application/x-ndjson"}


async def test_keys_have_their_own_batches(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    mine, other = (limited(store, name) for name in ("mine", "other"))
    async with serving(settings(redis_url, tmp_path, auth="on")) as api:
        answer = await api.client.post("/v1/batches?model=echo", content=lines(1, 2), headers=mine)
        batch = answer.json()
        url = f"/v1/batches/{batch['id']}"
        line = f"/v1/jobs/{keys.line_id(batch['id'], 1)}"
        for path in (url, f"{url}?wait=1", f"{url}/results", line):
            assert (await api.client.get(path, headers=other)).status_code == 404
            assert (await api.client.get(path, headers=mine)).status_code == 200
        assert (await api.client.delete(url, headers=other)).status_code == 404
        assert (await api.client.get("/v1/batches", headers=other)).json() == {"data": [], "next": None}
        assert len((await api.client.get("/v1/batches", headers=mine)).json()["data"]) == 1
        assert (await api.client.get(url)).status_code == 401
        key = ApiKey(id="few", name="few", scopes=frozenset({Scope.SUBMIT}), models=frozenset({"bert"}))
        store.hset(keys.KEYS, digest("few"), key.model_dump_json())
        few = {"x-api-key": "few", "content-type": "application/x-ndjson"}
        assert (await api.client.post("/v1/batches?model=echo", content=b"1", headers=few)).status_code == 403
        assert (await api.client.get("/v1/batches", headers=few)).status_code == 403


async def test_limits_hold_for_the_whole(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    once = limited(store, "once", requests="1/minute")
    async with serving(settings(redis_url, tmp_path, auth="on")) as api:

        async def post(key: dict[str, str], count: int) -> httpx.Response:
            return await api.client.post("/v1/batches?model=echo", content=b"1\n" * count, headers=key)

        assert [(await post(once, 3)).status_code for _ in range(2)] == [202, 429], "a batch is one request"
        items = limited(store, "items", items="1500/minute")
        assert (await post(items, 900)).status_code == 202
        late = await post(items, 900)
        assert (late.status_code, late.json()["violated-policies"]) == (429, ["items"])
        assert int(late.headers["retry-after"]) >= 1
        assert (await post(items, 1600)).status_code in (413, 429)
        never = await post(limited(store, "never", items="1500/minute"), 1600)
        assert (never.status_code, never.json()["code"]) == (413, "payload_too_large")
        size = await post(limited(store, "size", bytes="1000/minute"), 2000)
        assert (size.status_code, size.json()["code"]) == (413, "payload_too_large")
        await until(lambda: not list(store.scan_iter(f"{keys.UPLOAD}*")), "nothing of the refused is left")
        assert len(list(store.scan_iter(f"{keys.BATCH}*"))) == 2


async def test_a_batch_leaves_room_for_its_keys_own_jobs(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    key = limited(store, "k", concurrent=10)
    async with serving(asked := settings(redis_url, tmp_path, auth="on")) as api:
        answer = await api.client.post("/v1/batches?model=echo", content=b"1\n" * 40, headers=key)
        assert answer.json()["counts"]["queued"] == 40
        assert int(store.hget(keys.ACTIVE, "k") or 0) == 5
        job = await api.client.post("/v1/jobs", json={"model": "echo", "input": 1}, headers={"x-api-key": "k"})
        assert job.status_code == 202
        hands = Hands.on(asked)
        await work(hands, 1)
        assert int(store.hget(keys.ACTIVE, "k") or 0) <= 6
        await hands.client.aclose()
    lane = keys.lane(keys.queue_list(keys.queue_name("echo", "1"), keys.LOW), "k")
    assert store.llen(lane) >= 4, "lines lie in their key's lane"


@pytest.mark.parametrize("form", ["lines", "list"])
@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_the_api_answers_while_many_lines_come(redis_url: str, tmp_path: Path, form: str, count: int) -> None:
    """Probes are answered meanwhile, one after the other: as many as there are slices of 1,000 lines, at least."""
    async with serving(settings(redis_url, tmp_path)) as api:
        inputs = [b'{"text": "line %d"}' % n for n in range(count)]
        if form == "lines":
            call = post_lines(api, b"\n".join(inputs), model="bert")
        else:
            body = b'{"model": "bert", "inputs": [' + b",".join(inputs) + b"]}"
            headers = {"content-type": "application/json"}
            call = api.client.post("/v1/batches", content=body, headers=headers, timeout=100)
        sending = asyncio.create_task(call)
        answered = 0
        while not sending.done():
            assert (await api.client.get("/livez")).status_code == 200
            answered += 1
        batch = (await sending).json()
        assert batch["counts"]["queued"] == count
        assert answered >= count / 1000


async def test_what_was_accepted_is_told_although_redis_goes_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(api.parts.batches, "_look", away)
    answer = await post_lines(api, lines(1, 2), model="echo")
    batch = answer.json()
    assert (answer.status_code, batch["state"], batch["counts"]["queued"]) == (202, "queued", 2)
    monkeypatch.undo()
    told = (await api.client.get(f"/v1/batches/{batch['id']}")).json()
    assert told == batch


async def test_a_version_that_goes_meanwhile_is_told(api: Api, store: redis.Redis) -> None:
    """The registry changes between the first line and the last: the version stays as long as it is there."""
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"1\n" * 600
        await gate.wait()
        yield b"1\n"

    sending = asyncio.create_task(post_lines(api, slow(), model="echo"))
    await until(lambda: list(store.scan_iter(f"{keys.LINES}*")), "a slice is in")
    spec = {"task": "echo", "versions": {"1": {}, "2": {}}, "traffic": {"1": 1}}
    changed = await api.client.put("/v1/models/echo", json=spec)
    assert changed.status_code in (200, 202), changed.text
    gate.set()
    answer = await sending
    assert (answer.status_code, answer.json()["version"]) == (202, "1")
    assert answer.json()["counts"]["total"] == 601
