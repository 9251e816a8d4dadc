"""Pause, resume, purge, drain, workers and requeue over HTTP, on a real server; and who may ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared import keys, messages, scripts
from shared.model_spec import ModelSpec
from tests.api_stack import Api, Hands, serving, settings, until


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path)) as running:
        yield running


async def submit(api: Api, model: str = "echo", **body: Any) -> str:
    answer = await api.client.post("/v1/jobs", json={"model": model, "input": 1} | body)
    assert answer.status_code == 202
    job_id: str = answer.json()["id"]
    return job_id


async def job(api: Api, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await api.client.get(f"/v1/jobs/{job_id}")).json()
    return found


async def post(api: Api, path: str, status: int = 200, **query: Any) -> dict[str, Any]:
    answer = await api.client.post(path, params=query)
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def live(hands: Hands, name: str, process: str, *, state: str = "ready", started_at: float = 1.0) -> None:
    """A worker's sign of life, and the card of echo@1."""
    sign = {"process": process, "worker": name, "state": state, "refs": ["echo@1"], "started_at": started_at}
    sign |= {"pid": 7, "host": "h", "device": "cpu", "gpu": None, "busy": 0.5, "jobs_per_s": 2.0, "batch_size": 3.5}
    await hands.call(scripts.renew((), process=process, sign=orjson.dumps(sign), sign_ms=60_000))
    card = {"model": "echo", "version": "1", "state": "ready", "worker": name, "load": "preload", "loaded": True}
    card |= {"limits": {"max_batch_size": 8}, "failed_batches": 0}
    await hands.client.set(keys.card_key("echo@1", name), orjson.dumps(card), ex=60)


async def test_pause_is_told_everywhere_and_outlives_every_change_of_the_model(api: Api, hands: Hands) -> None:
    await live(hands, "w1", "w1-a")
    job_id = await submit(api)
    assert await post(api, "/v1/models/echo/pause") == {"model": "echo", "paused": True, "changed": True}
    assert await post(api, "/v1/models/echo/pause") == {"model": "echo", "paused": True, "changed": False}
    waiting = (await job(api, job_id))["waiting_for"]
    assert waiting["code"] == "paused"
    assert "echo" in waiting["message"]
    later = await submit(api)
    (echo,) = [one for one in (await api.client.get("/v1/models")).json()["data"] if one["id"] == "echo"]
    assert echo["paused"] is True
    assert echo["paused_since"]
    metrics = (await api.client.get("/metrics")).text
    assert 'ml_model_paused{model="echo"} 1.0' in metrics
    assert 'ml_model_paused{model="cnn"} 0.0' in metrics
    changed = ModelSpec.model_validate({"task": "echo", "versions": {"1": {}}, "limits": {"queue": 5}})
    answer = await api.client.put("/v1/models/echo", content=changed.model_dump_json())
    assert answer.is_success
    models = {name: entry.spec.model_dump(mode="json") for name, entry in api.parts.registry.known.models.items()}
    assert (await api.client.put("/v1/models", json={"models": models})).is_success
    assert (await api.client.get("/v1/models/echo")).json()["paused"] is True, "neither resumes it"
    assert await post(api, "/v1/models/echo/resume") == {"model": "echo", "paused": False, "changed": True}
    assert await post(api, "/v1/models/echo/resume") == {"model": "echo", "paused": False, "changed": False}
    assert (await job(api, job_id))["waiting_for"]["code"] == "turn"
    assert (await api.client.get("/v1/models/echo")).json()["paused"] is False
    taken = await hands.take(2)
    assert [one.job_id for one in taken] == [job_id, later]


async def test_a_pause_is_there_when_everything_starts_again(redis_url: str, tmp_path: Path, hands: Hands) -> None:
    async with serving(settings(redis_url, tmp_path)) as first:
        await post(first, "/v1/models/bert/pause")
    async with serving(settings(redis_url, tmp_path)) as second:
        assert (await second.client.get("/v1/models/bert")).json()["paused"] is True


async def test_a_pause_ends_with_its_model(api: Api, hands: Hands) -> None:
    await post(api, "/v1/models/echo/pause")
    assert (await api.client.delete("/v1/models/echo")).status_code == 200
    await until(lambda: not api.parts.registry.known.retiring, "its versions are gone")
    await until(lambda: _none_paused(hands), "and the pause")


async def _none_paused(hands: Hands) -> bool:
    return not await hands.client.exists(keys.PAUSED)


async def test_purge_cancels_what_has_not_started_and_wakes_who_waits(api: Api, hands: Hands) -> None:
    running = await submit(api)
    await hands.take(1)
    ids = [await submit(api, priority=priority) for priority in ("high", "normal", "low") for _ in range(3)]
    other = await submit(api, "cnn", input={"image": "aGVsbG8="})
    drained = await hands.call(scripts.drain(hands.lists, [1] * len(hands.lists), process="hands"))
    assert drained.messages, "some are in a worker's hands"
    waits = asyncio.create_task(api.client.get(f"/v1/jobs/{ids[-1]}?wait=20"))
    await until(lambda: api.parts.waiter.awaited(ids[-1]), "it waits")
    assert await post(api, "/v1/models/echo/purge") == {"canceled": 9}
    ended = (await waits).json()
    assert (ended["state"], ended["error"]["code"]) == ("canceled", "canceled")
    assert "purged" in ended["error"]["message"]
    assert {(await job(api, one))["state"] for one in ids} == {"canceled"}
    assert (await job(api, running))["state"] == "running"
    assert (await job(api, other))["state"] == "queued"
    assert await post(api, "/v1/models/echo/purge") == {"canceled": 0}


async def test_purge_of_many_while_others_submit(api: Api, hands: Hands) -> None:
    """Two thousand jobs, in slices; callers of another model are served in between."""
    queue = keys.queue_name("echo", "1")
    what: dict[str, Any] = {"queue": queue, "priority": keys.NORMAL, "model": "echo", "version": "1", "input": 1}
    bounds = {"deadline_ms": 600_000, "ttl_ms": 60_000, "size": 1, "max_jobs": 10_000, "max_bytes": 10**9}
    etag = api.parts.registry.known.etag
    calls = [
        scripts.submit(
            f"many-{number}",
            list_name=keys.queue_list(queue, keys.NORMAL),
            raw=messages.build(f"many-{number}", **what),
            ref="echo@1",
            etag=etag,
            fields={"model": "echo", "version": "1"},
            **bounds,
        )
        for number in range(2000)
    ]
    assert {reply.status for reply in await scripts.arun(hands.client, calls)} == {"accepted"}
    purging = asyncio.create_task(post(api, "/v1/models/echo/purge"))
    beside = 0
    while not purging.done():
        await submit(api, "tiny") if beside < 1 else await api.client.get("/readyz")
        beside += 1
    assert (await purging) == {"canceled": 2000}
    assert beside > 5
    counted = await hands.client.hmget(f"{keys.COUNTERS}echo@1", "queued", "canceled")
    assert counted == [b"0", b"2000"]


async def test_workers_are_told_by_name_and_one_is_let_go(api: Api, hands: Hands) -> None:
    assert (await api.client.get("/v1/workers")).json() == {"data": []}
    await live(hands, "w2", "w2-a")
    await live(hands, "w1", "w1-old", started_at=1)
    await live(hands, "w1", "w1-new", started_at=2, state="draining")
    failed = {"process": "w3-a", "worker": "w3", "state": "failed", "refs": ["bert@1"]}
    await hands.call(scripts.renew((), process="w3-a", sign=orjson.dumps(failed), sign_ms=60_000))
    await until(lambda: _count(api, 4), "all are seen")
    data = (await api.client.get("/v1/workers")).json()["data"]
    assert [(one["id"], one["state"]) for one in data] == [
        ("w1-old", "ready"),
        ("w1-new", "draining"),
        ("w2-a", "ready"),
        ("w3-a", "failed"),
    ]
    assert (data[2]["busy"], data[2]["jobs_per_s"], data[2]["batch_size"]) == (0.5, 2.0, 3.5)
    assert data[2]["models"] == [{"model": "echo", "version": "1", "state": "ready"}]
    assert data[3]["pid"] is None
    assert await post(api, "/v1/workers/w2/drain", 202) == {"draining": ["w2-a"]}
    assert await hands.client.ttl(keys.DRAIN + "w2-a") > 60
    assert await post(api, "/v1/workers/w1-new/drain", 202) == {"draining": ["w1-new"]}
    assert not await hands.client.exists(keys.DRAIN + "w1-old")
    for name in ("w9", "w3"):
        told = await post(api, f"/v1/workers/{name}/drain", 404)
        assert told["code"] == "worker_not_found"
        assert "w1, w2" in told["detail"]


async def _count(api: Api, count: int) -> bool:
    return len((await api.client.get("/v1/workers")).json()["data"]) == count


@pytest.mark.parametrize("call", ["pause", "resume", "purge"])
async def test_unknown_models(api: Api, call: str) -> None:
    for name in ("nope", "echo@1"):
        assert (await post(api, f"/v1/models/{name}/{call}", 404))["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/workers"),
        ("POST", "/v1/workers/w/drain"),
        ("POST", "/v1/models/echo/pause"),
        ("POST", "/v1/models/echo/resume"),
        ("POST", "/v1/models/echo/purge"),
        ("POST", "/v1/dead/requeue"),
    ],
)
async def test_only_for_administrators(redis_url: str, tmp_path: Path, method: str, path: str) -> None:
    async with serving(settings(redis_url, tmp_path)) as without_keys:
        answer = await without_keys.client.request(method, path, headers={"X-Forwarded-For": "192.0.2.1"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        made = await without_keys.client.post("/v1/keys", json={"name": "admin", "scopes": ["admin"]})
        admin = made.json()["secret"]
        made = await without_keys.client.post("/v1/keys", json={"name": "app"})
        app = made.json()["secret"]
    async with serving(settings(redis_url, tmp_path, auth="on")) as with_keys:
        refused = await with_keys.client.request(method, path, headers={"Authorization": f"Bearer {app}"})
        assert refused.status_code == 403
        assert (await with_keys.client.request(method, path)).status_code == 401
        allowed = await with_keys.client.request(method, path, headers={"Authorization": f"Bearer {admin}"})
        assert allowed.status_code in (200, 404)


# Dead letters ------------------------------------------------------------------------------------


async def bury(api: Api, hands: Hands, **body: Any) -> str:
    """A dead letter of a job; its id."""
    job_id = await submit(api, **body)
    await hands.take(1)
    assert await hands.call(scripts.bury(job_id, "rejected"))
    return job_id


async def test_requeue_retries_what_the_filter_lets_through(api: Api, hands: Hands) -> None:
    for tenant in ("a", "a", "b"):
        await bury(api, hands, labels={"tenant": tenant})
    await bury(api, hands, model="tiny")
    await hands.client.lpush(hands.lists[0], b"nonsense")
    await hands.call(scripts.drain(hands.lists, [1] * len(hands.lists), process="p"))
    done = await post(api, "/v1/dead/requeue", model="echo", label="tenant:a")
    assert done == {"retried": 2, "failed": [], "next": None}
    assert await post(api, "/v1/dead/requeue", reason="attempts_exhausted") == {
        "retried": 0,
        "failed": [],
        "next": None,
    }
    (letter,) = (await api.client.get("/v1/dead?label=tenant:b")).json()["letters"]
    assert letter["labels"] == {"tenant": "b"}
    done = await post(api, "/v1/dead/requeue")
    assert done["retried"] == 2
    ((failed),) = done["failed"]
    assert (failed["code"], failed["detail"]) == ("cannot_retry", "the message cannot be read")
    assert [one["id"] for one in (await api.client.get("/v1/dead")).json()["letters"]] == [failed["letter"]]
    assert len(await hands.take(4)) == 4


async def test_requeue_goes_on_where_it_has_stopped(api: Api, hands: Hands) -> None:
    for _ in range(3):
        await bury(api, hands)
    first = await post(api, "/v1/dead/requeue", limit=2)
    assert first["retried"] == 2
    last = await post(api, "/v1/dead/requeue", limit=2, after=first["next"])
    assert (last["retried"], last["next"]) == (1, None)
    assert (await post(api, "/v1/dead/requeue", 422, limit=0))["code"] == "invalid_input"
