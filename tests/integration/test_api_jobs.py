"""`/v1/jobs` on a real server: accept, read, wait, cancel, refuse."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from api.auth import Caller
from api.jobs import JobService
from api.waiter import Waiting
from shared import keys
from shared.errors import Fault
from shared.types import Job, Outcome, State
from tests.api_stack import Api, Hands, serving, settings, until


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, max_wait_s=5, max_body_bytes=200_000)) as running:
        yield running


async def test_a_job_is_accepted_run_and_read(api: Api, hands: Hands) -> None:
    answer = await api.client.post("/v1/jobs", json={"model": "echo", "input": {"a": 1}, "labels": {"k": "v"}})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["model"], job["version"], job["labels"]) == ("queued", "echo", "1", {"k": "v"})
    assert job["created_at"] < job["deadline_at"]
    (taken,) = await hands.take()
    assert taken.kwargs == {"model": "echo", "version": "1", "input": {"a": 1}, "parameters": {}}
    running = (await api.client.get(f"/v1/jobs/{job['id']}")).json()
    assert (running["state"], running["attempt"]) == ("running", 1)
    await hands.finish(taken)
    done = (await api.client.get(f"/v1/jobs/{job['id']}")).json()
    assert (done["state"], done["output"], done["error"]) == ("succeeded", {"a": 1}, None)
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert done["timing"]["batch_size"] == 1


async def test_a_sticky_key_meets_the_same_version(redis_url: str, tmp_path: Path) -> None:
    models = 'models: {echo: {task: echo, versions: {"1": {}, "2": {}}, traffic: {"1": 1, "2": 1}}}'
    async with serving(settings(redis_url, tmp_path, models)) as api:

        async def version(**more: str) -> str:
            job = (await api.client.post("/v1/jobs", json={"input": 1} | more)).json()
            assert (await api.client.get(f"/v1/jobs/{job['id']}")).json()["version"] == job["version"]
            told: str = job["version"]
            return told

        first = {key: await version(sticky=key) for key in map(str, range(30))}
        assert set(first.values()) == {"1", "2"}
        assert {key: await version(sticky=key) for key in first} == first
        assert await version(sticky="0", version="1") == "1", "a pin goes before it"
        refused = await api.client.post("/v1/jobs", json={"input": 1, "sticky": 7})
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/sticky")


@pytest.mark.parametrize(
    ("body", "status", "code", "pointers"),
    [
        ({"model": "no", "input": 1}, 404, "model_not_found", None),
        ({"model": "bert", "version": "9", "input": {"text": "x"}}, 404, "model_not_found", None),
        ({"model": "bert@9", "input": {"text": "x"}}, 404, "model_not_found", None),
        ({"model": "bert", "input": {"text": 1}}, 422, "invalid_input", ["/input/text"]),
        (
            {"model": "bert", "input": {"texts": ["a", 1, ""]}},
            422,
            "invalid_input",
            ["/input/texts/1", "/input/texts/2"],
        ),
        ({"model": "bert", "input": [{"text": "a"}, {}]}, 422, "invalid_input", ["/input/1/text"]),
        ({"model": "bert", "input": {"text": "a", "b": 1}}, 422, "invalid_input", ["/input/b"]),
        ({"model": "bert", "input": {"texts": []}}, 422, "invalid_input", ["/input/texts"]),
        ({"model": "bert", "input": "a"}, 422, "invalid_input", ["/input"]),
        (
            {"model": "bert", "input": {"text": "a"}, "parameters": {"dimensions": 0}},
            422,
            "invalid_input",
            ["/parameters/dimensions"],
        ),
        (
            {"model": "bert", "input": {"text": "a"}, "parameters": {"partial": 3}},
            422,
            "invalid_input",
            ["/parameters/partial"],
        ),
        ({"model": "cnn", "input": {"image": "%%%"}}, 422, "invalid_input", ["/input/image"]),
        ({"model": "echo"}, 422, "invalid_input", ["/input"]),
        ({"input": 1}, 422, "invalid_input", ["/model"]),
        ({"model": "echo", "input": 1, "prority": "high"}, 422, "invalid_input", ["/prority"]),
        ({"model": "echo", "input": 1, "priority": "urgent"}, 422, "invalid_input", ["/priority"]),
        ({"model": "echo", "input": 1, "deadline_s": -1}, 422, "invalid_input", ["/deadline_s"]),
        ({"model": "echo", "input": 1, "labels": {"a/b": 1}}, 422, "invalid_input", ["/labels/a~1b"]),
        ({"model": 7, "input": 1}, 422, "invalid_input", ["/model"]),
        ([1], 422, "invalid_input", [""]),
        ({"model": "tiny", "input": "x" * 200}, 413, "payload_too_large", None),
    ],
)
async def test_a_wrong_request_is_named(
    api: Api, body: object, status: int, code: str, pointers: list[str] | None
) -> None:
    answer = await api.client.post("/v1/jobs", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (status, code, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "detail", "instance"} <= problem.keys()
    if pointers is not None:
        assert [fault["pointer"] for fault in problem["errors"]] == pointers
        assert all(fault["message"] for fault in problem["errors"])


async def test_unknown_names_are_told_what_there_is(api: Api) -> None:
    unknown = (await api.client.post("/v1/jobs", json={"model": "no", "input": 1})).json()["detail"]
    assert all(name in unknown for name in ("bert", "cnn", "echo"))
    version = (await api.client.post("/v1/jobs", json={"model": "bert@9", "input": 1})).json()["detail"]
    assert "1, 2" in version


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": NaN}',
        b'{"model": Infinity}',
        b"\xff",
        b'{"model":"echo","input":' + b"[" * 250 + b"]" * 250 + b"}",
    ],
)
async def test_what_is_no_json_is_400(api: Api, body: bytes) -> None:
    answer = await api.client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_deep_but_allowed_nesting_travels(api: Api, hands: Hands) -> None:
    body = b'{"model":"echo","input":' + b"[" * 190 + b"]" * 190 + b"}"
    answer = await api.client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    (taken,) = await hands.take()
    await hands.finish(taken)
    done = await api.client.get(answer.headers["location"])
    assert done.json()["state"] == "succeeded"


@pytest.mark.parametrize("kind", ["application/xml", "text/csv"])
async def test_other_content_types_are_415(api: Api, kind: str) -> None:
    answer = await api.client.post("/v1/jobs", content=b"{}", headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_bodies_may_be_compressed(api: Api, hands: Hands) -> None:
    content = gzip.compress(b'{"model":"echo","input":[1]}')
    answer = await api.client.post("/v1/jobs", content=content, headers={"content-encoding": "gzip"})
    assert answer.status_code == 202
    assert (await hands.take())[0].kwargs["input"] == [1]
    for broken, encoding, status in ((content[:-3], "gzip", 400), (b"{}", "gzip", 400), (b"{}", "br", 415)):
        answer = await api.client.post("/v1/jobs", content=broken, headers={"content-encoding": encoding})
        assert answer.status_code == status
    bomb = gzip.compress(b" " * 200_001)
    answer = await api.client.post("/v1/jobs", content=bomb, headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


async def test_a_body_over_the_cap_is_413(api: Api) -> None:
    told = await api.client.post("/v1/jobs", content=b"x" * 200_001)
    assert (told.status_code, told.json()["code"]) == (413, "payload_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    streamed = await api.client.post("/v1/jobs", content=chunks(), headers={"content-type": "application/json"})
    assert (streamed.status_code, streamed.json()["code"]) == (413, "payload_too_large")


async def test_paths_and_methods_that_are_none(api: Api) -> None:
    assert (await api.client.get("/v1/nothing")).json()["code"] == "not_found"
    wrong = await api.client.put("/v1/jobs", json={})
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["allow"]
    assert (await api.client.get("/v1/jobs/nobody")).json()["code"] == "job_not_found"
    assert (await api.client.get("/v1/jobs/nobody?wait=1")).status_code == 404
    assert (await api.client.delete("/v1/jobs/nobody")).status_code == 404


async def test_version_pins_and_aliases(api: Api) -> None:
    for asked in ({"model": "bert@best"}, {"model": "bert", "version": "2"}, {"model": "bert@2"}):
        job = (await api.client.post("/v1/jobs", json=asked | {"input": {"text": "x"}})).json()
        assert (job["model"], job["version"]) == ("bert", "2")
    job = (await api.client.post("/v1/jobs", json={"model": "bert", "input": {"text": "x"}})).json()
    assert job["version"] == "1"


async def test_the_record_is_what_the_worker_needs(api: Api, store: redis.Redis) -> None:
    body = {"model": "echo", "input": 1, "priority": "high", "deadline_s": 60, "result_ttl_s": 30}
    job = (await api.client.post("/v1/jobs", json=body)).json()
    record = {k.decode(): v.decode() for k, v in store.hgetall(keys.JOB + job["id"]).items()}
    expected = {"priority": "0", "timeout_ms": "60000", "payloads": "0", "labels": "{}", "owner": "anonymous"}
    assert expected.items() <= record.items()
    assert int(record["deadline_at"]) - int(record["created_at"]) == 60_000
    assert record["ttl_ms"] == "30000"
    assert "waiters" not in record
    assert store.llen(keys.queue_list("ml.echo.1", keys.HIGH)) == 1
    assert 85 <= store.ttl(keys.JOB + job["id"]) <= 90


# Waiting -----------------------------------------------------------------------------------------


async def test_prefer_wait_answers_when_it_ends(api: Api, hands: Hands) -> None:
    asked = api.client.post("/v1/jobs", json={"model": "echo", "input": 7}, headers={"Prefer": "wait=4"})
    call = asyncio.create_task(asked)
    await hands.finish((await hands.take())[0])
    answer = await call
    assert (answer.status_code, answer.json()["state"], answer.json()["output"]) == (200, "succeeded", 7)
    assert answer.headers["preference-applied"] == "wait=4"


async def test_prefer_wait_answers_a_failed_job_with_200(api: Api, hands: Hands) -> None:
    asked = api.client.post("/v1/jobs", json={"model": "echo", "input": 7}, headers={"Prefer": "wait=4"})
    call = asyncio.create_task(asked)
    (taken,) = await hands.take()
    fault = Fault(pointer="/text", message="bad")
    await hands.finish(taken, Outcome(State.FAILED, code="invalid_input", message="no", faults=[fault]))
    answer = await call
    job = answer.json()
    assert (answer.status_code, job["state"]) == (200, "failed")
    assert job["error"]["code"] == "invalid_input"
    assert job["error"]["errors"][0]["pointer"] == "/text"


async def test_a_wait_that_ends_first_says_so(api: Api, hands: Hands) -> None:
    asked = api.client.post("/v1/jobs", json={"model": "echo", "input": 7}, headers={"Prefer": "wait=1"})
    call = asyncio.create_task(asked)
    (taken,) = await hands.take()
    answer = await call
    assert (answer.status_code, answer.json()["state"]) == (202, "running")
    polled = asyncio.create_task(api.client.get(f"/v1/jobs/{taken.job_id}?wait=5"))
    await until(lambda: len(api.parts.waiter) == 1, "the long-poll waits")
    await hands.finish(taken)
    answer = await polled
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert len(api.parts.waiter) == 0
    again = await api.client.get(f"/v1/jobs/{taken.job_id}?wait=5")
    assert again.json() == answer.json()


async def test_who_waits_for_a_job_that_redis_has_lost_is_told_that_it_was_not_kept(
    api: Api, store: redis.Redis
) -> None:
    """As after a failover to a replica that did not have it yet; 404 would say that nobody had asked."""
    asked = api.client.post("/v1/jobs", json={"model": "echo", "input": 7}, headers={"Prefer": "wait=1"})
    call = asyncio.create_task(asked)
    await until(lambda: len(api.parts.waiter) == 1, "the call waits")
    (record,) = store.scan_iter(f"{keys.JOB}*")
    store.delete(record)
    answer = await call
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert "Idempotency-Key" in answer.json()["detail"]


async def test_news_between_reading_and_waiting(api: Api, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.client.post("/v1/jobs", json={"model": "echo", "input": 7})
    (taken,) = await hands.take()
    follow = api.parts.jobs.follow

    async def followed_by_the_end(job_id: str, caller: Caller) -> tuple[Job, Waiting]:
        job, waiting = await follow(job_id, caller)
        await hands.finish(taken)
        await until(waiting.done, "the news is there before anybody waits")
        return job, waiting

    monkeypatch.setattr(JobService, "follow", lambda self, job_id, caller: followed_by_the_end(job_id, caller))
    answer = await api.client.get(f"/v1/jobs/{taken.job_id}?wait=5")
    assert answer.json()["state"] == "succeeded"


async def test_waits_are_clamped_and_told(api: Api, hands: Hands) -> None:
    call = asyncio.create_task(
        api.client.post("/v1/jobs", json={"model": "echo", "input": 7}, headers={"Prefer": "wait"})
    )
    (taken,) = await hands.take()
    await hands.finish(taken)
    assert (await call).headers["preference-applied"] == "wait=5"
    got = await api.client.get(f"/v1/jobs/{taken.job_id}?wait=3600")
    assert got.headers["preference-applied"] == "wait=5"
    preferred = await api.client.get(f"/v1/jobs/{taken.job_id}", headers={"Prefer": "wait=2"})
    assert preferred.headers["preference-applied"] == "wait=2"
    for wrong in ("-1", "x", "nan", "inf"):
        refused = await api.client.get(f"/v1/jobs/{taken.job_id}?wait={wrong}")
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")


async def test_respond_async_beats_wait(api: Api) -> None:
    headers = {"Prefer": "wait=5, respond-async"}
    answer = await api.client.post("/v1/jobs", json={"model": "echo", "input": 7}, headers=headers)
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")


async def test_a_large_output_is_read_not_carried(api: Api, hands: Hands) -> None:
    call = asyncio.create_task(
        api.client.post("/v1/jobs", json={"model": "echo", "input": 7}, headers={"Prefer": "wait=5"})
    )
    (taken,) = await hands.take()
    await hands.finish(taken, Outcome(State.SUCCEEDED, output="x" * 300_000))
    assert (await call).json()["output"] == "x" * 300_000


# Cancel ------------------------------------------------------------------------------------------


async def test_cancel(api: Api, hands: Hands) -> None:
    ids = [(await api.client.post("/v1/jobs", json={"model": "echo", "input": n})).json()["id"] for n in range(2)]
    waiting = asyncio.create_task(api.client.get(f"/v1/jobs/{ids[1]}?wait=5"))
    await until(lambda: len(api.parts.waiter) == 1, "somebody waits")
    canceled = await api.client.delete(f"/v1/jobs/{ids[1]}")
    assert (canceled.status_code, canceled.json()["state"]) == (200, "canceled")
    assert canceled.json()["error"]["code"] == "canceled"
    assert (await waiting).json()["state"] == "canceled"
    (taken, skipped) = await hands.take(2)
    assert (taken.job_id, skipped.started_at) == (ids[0], 0)
    running = await api.client.delete(f"/v1/jobs/{ids[0]}")
    assert running.json()["state"] == "running"
    await hands.finish(taken)
    assert (await api.client.get(f"/v1/jobs/{ids[0]}")).json()["state"] == "canceled"
    unchanged = await api.client.delete(f"/v1/jobs/{ids[0]}")
    assert unchanged.json()["state"] == "canceled"


async def test_a_canceled_job_stays_succeeded_when_it_had_ended(api: Api, hands: Hands) -> None:
    await api.client.post("/v1/jobs", json={"model": "echo", "input": 1})
    (taken,) = await hands.take()
    await hands.finish(taken)
    assert (await api.client.delete(f"/v1/jobs/{taken.job_id}")).json()["state"] == "succeeded"


# Idempotency -------------------------------------------------------------------------------------


async def test_an_idempotency_key_makes_one_job(api: Api, hands: Hands) -> None:
    headers = {"Idempotency-Key": "order 66"}
    body = {"model": "bert", "input": {"text": "x"}, "labels": {"a": "1", "b": "2"}}
    first = await api.client.post("/v1/jobs", json=body, headers=headers)
    other_order = {"labels": {"b": "2", "a": "1"}, "input": {"text": "x"}, "model": "bert"}
    second = await api.client.post("/v1/jobs", json=other_order, headers=headers)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]
    mismatch = await api.client.post("/v1/jobs", json=body | {"input": {"text": "y"}}, headers=headers)
    assert (mismatch.status_code, mismatch.json()["code"]) == (422, "idempotency_mismatch")
    waiting = asyncio.create_task(api.client.post("/v1/jobs", json=body, headers=headers | {"Prefer": "wait=5"}))
    await until(lambda: len(api.parts.waiter) == 1, "the resubmit waits for the first job")
    (taken,) = await hands.take()
    await hands.finish(taken)
    assert ((await waiting).status_code, (await waiting).json()["id"]) == (200, taken.job_id)
    ended = await api.client.post("/v1/jobs", json=body, headers=headers)
    assert (ended.status_code, ended.json()["state"]) == (200, "succeeded")


async def test_an_idempotency_key_covers_large_inputs(api: Api, store: redis.Redis) -> None:
    headers = {"Idempotency-Key": "big"}
    inputs = [{"a": "x" * 50_000, "b": 1}, {"b": 1, "a": "x" * 50_000}, {"a": "x" * 50_000, "b": 2}]
    answers = [await api.client.post("/v1/jobs", json={"model": "echo", "input": i}, headers=headers) for i in inputs]
    assert [answer.status_code for answer in answers] == [202, 202, 422]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert len(list(store.scan_iter(keys.PAYLOAD + "*"))) == 1


async def test_the_same_key_at_the_same_time(api: Api, store: redis.Redis) -> None:
    calls = [
        api.client.post("/v1/jobs", json={"model": "echo", "input": 1}, headers={"Idempotency-Key": "k"})
        for _ in range(20)
    ]
    assert len({answer.json()["id"] for answer in await asyncio.gather(*calls)}) == 1
    assert store.llen(keys.queue_list("ml.echo.1", keys.NORMAL)) == 1


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_odd_idempotency_keys_are_400(api: Api, key: str) -> None:
    headers = {"Idempotency-Key": key}
    answer = await api.client.post("/v1/jobs", json={"model": "echo", "input": 1}, headers=headers)
    assert answer.status_code == 400


# Payloads ----------------------------------------------------------------------------------------


async def test_large_inputs_travel_beside_the_message(api: Api, hands: Hands, store: redis.Redis) -> None:
    body = {"model": "echo", "input": {"text": "x" * 50_000}, "deadline_s": 60, "result_ttl_s": 40}
    job = (await api.client.post("/v1/jobs", json=body)).json()
    key = keys.payload_key(job["id"], 0)
    assert 95 <= store.ttl(key) <= 100
    (taken,) = await hands.take()
    assert (taken.kwargs["input"], taken.payloads) == (None, [""])
    assert len((await hands.payloads(taken))[0]) > 50_000
    await hands.finish(taken, Outcome(State.SUCCEEDED, output=1))
    assert not store.exists(key)


async def test_base64_images_travel_as_bytes(api: Api, hands: Hands) -> None:
    image = b"\x89PNG...\x00\xff"
    text = base64.b64encode(image).decode()
    await api.client.post(
        "/v1/jobs", json={"model": "cnn", "input": {"images": [text, f"data:image/png;base64,{text}"]}}
    )
    (taken,) = await hands.take()
    assert taken.kwargs["input"] == {"images": [None, None]}
    assert taken.payloads == ["/images/0", "/images/1"]
    assert await hands.payloads(taken) == [image, image]


async def test_a_refused_job_leaves_no_payload(api: Api, store: redis.Redis, tmp_path: Path) -> None:
    image = base64.b64encode(b"x" * 50_000).decode()
    limited = "models: {small: {task: image-classification, versions: {'1': {source: x}}, limits: {queue: 1}}}"
    async with serving(settings(api.parts.settings.redis_url, tmp_path, limited)) as small:
        first = await small.client.post("/v1/jobs", json={"model": "small", "input": {"image": image}})
        assert first.status_code == 202
        refused = await small.client.post("/v1/jobs", json={"model": "small", "input": {"image": image}})
        assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
    kept = [key.decode() for key in store.scan_iter(keys.PAYLOAD + "*")]
    assert kept == [keys.payload_key(first.json()["id"], 0)]
