"""`GET /v1/jobs` on a real server: what is in a key's list, in which order, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from shared import keys, scripts
from shared.api_keys import ApiKey, Scope, digest
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings

ALICE, BOB, WRITER = "mls_alice", "mls_bob", "mls_writer"


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path)) as running:
        yield running


async def submit(api: Api, value: Any = 1, **more: Any) -> str:
    answer = await api.client.post("/v1/jobs", json={"model": "echo", "input": value} | more)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


async def page(api: Api, **query: Any) -> dict[str, Any]:
    answer = await api.client.get("/v1/jobs", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ids(api: Api, **query: Any) -> list[str]:
    return [job["id"] for job in (await page(api, **query))["data"]]


async def walk(api: Api, **query: Any) -> list[list[str]]:
    """All pages, by their cursors."""
    pages, cursor = [], None
    while True:
        found = await page(api, **query, **({"cursor": cursor} if cursor else {}))
        pages.append([job["id"] for job in found["data"]])
        cursor = found["next"]
        if cursor is None:
            return pages


async def test_the_newest_come_first_and_without_output(api: Api, hands: Hands) -> None:
    done, failed, running, queued = [await submit(api, {"n": n}, labels={"n": str(n)}) for n in range(4)]
    await hands.finish((await hands.take())[0])
    await hands.finish((await hands.take())[0], Outcome(State.FAILED, code="predict_error", message="it broke"))
    await hands.take()
    found = await page(api)
    assert [job["id"] for job in found["data"]] == [queued, running, failed, done]
    assert [job["state"] for job in found["data"]] == ["queued", "running", "failed", "succeeded"]
    assert found["next"] is None
    assert all("output" not in job for job in found["data"])
    assert [job["error"] and job["error"]["code"] for job in found["data"]] == [None, None, "predict_error", None]
    assert found["data"][0]["waiting_for"]["code"] == "worker"
    alone = (await api.client.get(f"/v1/jobs/{queued}")).json()
    del alone["output"]
    assert found["data"][0] == alone


async def test_filters(api: Api, hands: Hands) -> None:
    a = await submit(api, labels={"tenant": "acme", "kind": "a:b"})
    b = await submit(api, labels={"tenant": "acme"})
    c = await submit(api, {"text": "x"}, model="bert", labels={"tenant": "other"})
    d = await submit(api, {"text": "x"}, model="bert@best")
    await api.client.delete(f"/v1/jobs/{a}")
    assert await ids(api, state="canceled") == [a]
    assert await ids(api, state="queued") == [d, c, b]
    assert await ids(api, state=["queued", "canceled"]) == await ids(api, state="canceled,queued") == [d, c, b, a]
    assert await ids(api, state="succeeded") == []
    assert await ids(api, model="bert") == [d, c]
    assert await ids(api, model="bert@2") == [d]
    assert await ids(api, model="no") == []
    assert await ids(api, label="tenant:acme") == [b, a]
    assert await ids(api, label=["tenant:acme", "kind:a:b"]) == [a]
    assert await ids(api, label="tenant:acme", state="queued", model="echo") == [b]
    assert await ids(api, label="tenant:") == []


async def test_every_job_is_on_one_page(api: Api, store: redis.Redis) -> None:
    """Also those of one millisecond, and though some expire between two pages."""
    made = [await submit(api, n) for n in range(25)]
    store.zadd(keys.JOBS + keys.ANONYMOUS, {job_id: 1_767_225_600_000 + n // 10 for n, job_id in enumerate(made)})
    order = [raw.decode() for raw in store.zrange(keys.JOBS + keys.ANONYMOUS, 0, -1, desc=True)]
    for limit in (1, 3, 10, 24, 25, 200):
        pages = await walk(api, limit=limit)
        assert [job_id for some in pages for job_id in some] == order
        assert max(map(len, pages)) == min(limit, 25)
    first = await page(api, limit=5)
    store.delete(keys.JOB + order[4], keys.JOB + order[7])  # the cursor's own, and a later one
    rest = await ids(api, cursor=first["next"])
    assert rest == [job_id for job_id in order[5:] if job_id != order[7]]
    assert store.zscore(keys.JOBS + keys.ANONYMOUS, order[7]) is None, "what was seen to be gone has left the list"


async def test_a_filter_that_lets_few_through_looks_so_far_and_no_further(api: Api, store: redis.Redis) -> None:
    job_id = await submit(api, labels={"the": "one"})
    index, record = keys.JOBS + keys.ANONYMOUS, store.hgetall(keys.JOB + job_id)
    fields: dict[str | bytes, Any] = {**record, b"labels": b"{}"}
    with store.pipeline() as pipe:
        for n in range(5000):
            pipe.hset(f"{keys.JOB}x{n}", mapping=fields)
            pipe.pexpire(f"{keys.JOB}x{n}", 60_000)
            pipe.zadd(index, {f"x{n}": 2_000_000_000_000 + n})
        pipe.execute()
    pages = await walk(api, label="the:one")
    assert [len(some) for some in pages] == [0, 0, 1], "2,000 entries a page"
    assert pages[-1] == [job_id]


async def test_a_damaged_record_does_not_hide_the_others(api: Api, store: redis.Redis) -> None:
    a, b, c = [await submit(api) for _ in range(3)]
    store.hset(keys.JOB + b, "created_at", "soon")
    assert await ids(api) == [c, a]
    store.hset(keys.JOB + b, "labels", "[")
    assert await ids(api, label="a:b") == []


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "201"},
        {"limit": "ten"},
        {"limit": ""},
        {"limit": "-1"},
        {"state": "done"},
        {"state": ""},
        {"state": "queued,"},
        {"state": "queued,done"},
        {"label": "acme"},
        {"label": ["a:b"] * 33},
        {"modle": "bert"},
        {"page": "2", "limit": "10"},
        {"cursor": "x"},
        {"cursor": "-"},
        {"cursor": "1"},
        {"cursor": "99999999999999999-x"},
        {"cursor": "²-x"},
    ],
)
async def test_a_wrong_question_is_told(api: Api, query: dict[str, Any]) -> None:
    answer = await api.client.get("/v1/jobs", params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert next(iter(query)) in answer.json()["detail"]


async def test_a_key_has_a_list_of_its_own(redis_url: str, store: redis.Redis, tmp_path: Path) -> None:
    for name, secret, scopes in (
        ("a", ALICE, {Scope.READ, Scope.SUBMIT}),
        ("b", BOB, {Scope.ADMIN}),
        ("w", WRITER, {Scope.SUBMIT}),
    ):
        key = ApiKey(id=f"key_{name}", name=name, scopes=frozenset(scopes))
        store.hset(keys.KEYS, digest(secret), key.model_dump_json())
    async with serving(settings(redis_url, tmp_path, auth="on")) as api:

        async def ask(secret: str, method: str = "GET", **more: Any) -> httpx.Response:
            return await api.client.request(method, "/v1/jobs", headers={"Authorization": f"Bearer {secret}"}, **more)

        made = {
            secret: [(await ask(secret, "POST", json={"model": "echo", "input": 1})).json()["id"] for _ in range(3)]
            for secret in (ALICE, BOB)
        }
        for secret, own in made.items():
            assert [job["id"] for job in (await ask(secret)).json()["data"]] == own[::-1]
        foreign = (await ask(ALICE, params={"limit": 1})).json()["next"]
        assert [job["id"] for job in (await ask(BOB, params={"cursor": foreign})).json()["data"]] == []
        assert (await ask(WRITER)).status_code == 403


async def test_a_retry_and_plain_celerys_jobs_have_their_place(api: Api, hands: Hands, store: redis.Redis) -> None:
    """In the list of their owner; a line of a batch in none."""
    for owner, batch in (("key_a", ""), ("celery", ""), ("key_a", "batch_1")):
        fields: dict[str, str | int] = {"model": "echo", "version": "1", "owner": owner}
        await hands.call(
            scripts.submit(
                f"{owner}{batch}",
                list_name="ml.echo.1",
                raw=b"{}",
                ref="echo@1",
                deadline_ms=60_000,
                ttl_ms=1000,
                size=1,
                max_jobs=9,
                max_bytes=99,
                fields=fields | ({"batch": batch} if batch else {}),
                etag=api.parts.catalog.etag,
            )
        )
    assert store.zrange(keys.JOBS + "key_a", 0, -1) == [b"key_a"]
    assert store.zrange(keys.JOBS + "celery", 0, -1) == [b"celery"]
    assert (await api.client.get("/v1/jobs/key_abatch_1")).json()["batch"] == "batch_1"
