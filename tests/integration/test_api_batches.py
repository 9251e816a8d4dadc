"""`/v1/batches` on a real server: accept, read, run, results, cancel, refuse."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis

from shared import keys
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings, until
from tests.batches import lines, nothing_is_left, post_lines, results, work


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, max_wait_s=5, max_body_bytes=200_000, batch_window=10)) as running:
        yield running


async def test_a_list_is_accepted_run_and_read(api: Api, hands: Hands) -> None:
    body = {"model": "echo", "inputs": [{"n": n} for n in range(25)], "labels": {"k": "v"}}
    answer = await api.client.post("/v1/batches", json=body)
    batch = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/batches/{batch['id']}")
    assert (batch["model"], batch["version"], batch["state"], batch["labels"]) == ("echo", "1", "queued", {"k": "v"})
    assert batch["priority"] == "low"
    counts = {"total": 25, "queued": 25, "running": 0, "succeeded": 0, "failed": 0, "canceled": 0}
    assert batch["counts"] == counts
    assert (batch["rate"], batch["eta_s"], batch["started_at"]) == (None, None, None)
    assert batch["created_at"] < batch["deadline_at"] < batch["expires_at"]
    taken = await hands.take(10)
    assert [one.kwargs["input"]["n"] for one in taken] == list(range(10)), "the window"
    running = (await api.client.get(f"/v1/batches/{batch['id']}")).json()
    assert (running["state"], running["counts"]["running"], running["counts"]["queued"]) == ("running", 10, 15)
    await hands.finish(taken[0], Outcome(State.FAILED, code="predict_error", message="no"))
    await hands.finish_all(taken[2:])
    assert [line["index"] for line in await results(api, batch["id"])] == [0], "up to the first that has not ended"
    await hands.finish(taken[1])
    await work(hands, 15)
    done = (await api.client.get(f"/v1/batches/{batch['id']}?wait=5")).json()
    assert done["state"] == "completed"
    assert done["counts"] == counts | {"queued": 0, "succeeded": 24, "failed": 1}
    assert done["started_at"] <= done["finished_at"]
    told = await results(api, batch["id"])
    assert [line["index"] for line in told] == list(range(25))
    assert told[0] == {"index": 0, "state": "failed", "error": {"code": "predict_error", "message": "no"}}
    assert all(line["output"] == {"n": line["index"]} for line in told[1:])
    assert await results(api, batch["id"], start=23) == told[23:]


async def test_a_line_is_a_job(api: Api, hands: Hands) -> None:
    batch = (await api.client.post("/v1/batches", json={"model": "echo", "inputs": list(range(12))})).json()
    first, late = (keys.line_id(batch["id"], n) for n in (0, 11))
    assert (await api.client.get(f"/v1/jobs/{first}")).json()["state"] == "queued"
    waiting = (await api.client.get(f"/v1/jobs/{late}")).json()
    assert (waiting["state"], waiting["model"], waiting["deadline_at"]) == ("queued", "echo", batch["deadline_at"])
    assert (await api.client.get(f"/v1/jobs/{keys.line_id(batch['id'], 12)}")).status_code == 404
    taken = await hands.take(10)
    await hands.finish_all(taken)
    assert (await api.client.get(f"/v1/jobs/{first}")).json()["output"] == 0
    await work(hands, 2)
    assert (await api.client.get(f"/v1/jobs/{late}?wait=5")).json()["output"] == 11


async def test_a_message_says_how_many_items_its_job_has(api: Api, store: redis.Redis) -> None:
    """So a worker takes no more of them than two batches."""
    inputs = [{"texts": ["a", "b"]}, {"text": "a"}]
    batch = (await api.client.post("/v1/batches", json={"model": "bert", "inputs": inputs})).json()
    job = await api.client.post("/v1/jobs", json={"model": "bert", "input": {"texts": ["a", "b", "c"]}})
    assert job.status_code == 202
    told = {}
    for priority in (keys.LOW, keys.NORMAL):
        for raw in store.lrange(keys.queue_list(keys.queue_name("bert", "1"), priority), 0, -1):
            headers = orjson.loads(raw)["headers"]
            told[headers["id"]] = headers.get("ml_items")
    assert told == {keys.line_id(batch["id"], 0): 2, keys.line_id(batch["id"], 1): None, job.json()["id"]: 3}
    assert (await api.client.post("/v1/models/bert/purge")).status_code == 200


async def test_lines_come_as_a_stream(api: Api, hands: Hands) -> None:
    """JSON lines, cut anywhere, with odd ends; more than one body may have, and compressed."""
    body = b"\xef\xbb\xbf" + lines(*range(5)) + b"\r\n{\r\n" + orjson.dumps("x" * 300_000) + b"\n" + b"7\n\n \n"

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 7919):
            yield body[at : at + 7919]

    query = {"model": "echo", "parameters": '{"sleep_ms": 1}', "labels": '{"a": "b"}', "deadline_s": "60"}
    for content, more in ((pieces(), {}), (gzip.compress(body), {"content-encoding": "gzip"})):
        headers = {"content-type": "application/x-ndjson; charset=utf-8"} | more
        answer = await api.client.post("/v1/batches", params=query, content=content, headers=headers)
        batch = answer.json()
        assert answer.status_code == 202
        assert batch["labels"] == {"a": "b"}
        counts = batch["counts"]
        assert (counts["total"], counts["queued"], counts["failed"]) == (9, 6, 3), "empty, not JSON, too long"
        taken = await hands.take(6)
        assert {one.kwargs["parameters"]["sleep_ms"] for one in taken} == {1}
        await hands.finish_all(taken)
        told = await results(api, batch["id"])
        assert [line.get("output") for line in told] == [0, 1, 2, 3, 4, None, None, None, 7]
        assert {line["error"]["code"] for line in told[5:8]} == {"invalid_input"}
        assert [line["error"]["message"][:40] for line in told[5:8]] == [
            "the line is not valid JSON: Input is a z",
            "the line is not valid JSON: unexpected e",
            "the line has more than 200000 bytes",
        ]


async def test_an_input_that_does_not_fit_fails_its_own_line(api: Api, hands: Hands) -> None:
    inputs = [
        {"text": "a"},
        {"text": 1},
        {"no": "text"},
        {"texts": ["a", ""]},
        "x",
        {"text": "b"},
        {"text": "c" * 10**6},
    ]
    small = [one for one in inputs if len(orjson.dumps(one)) < 1000]
    batch = (await api.client.post("/v1/batches", json={"model": "bert", "inputs": small})).json()
    assert batch["counts"] | {"total": 0} == {
        "total": 0,
        "queued": 2,
        "running": 0,
        "succeeded": 0,
        "failed": 4,
        "canceled": 0,
    }
    taken = await hands.take(2)
    assert [one.kwargs["input"] for one in taken] == [{"text": "a"}, {"text": "b"}]
    await hands.finish_all(taken)
    told = await results(api, batch["id"])
    assert [line["state"] for line in told] == ["succeeded", "failed", "failed", "failed", "failed", "succeeded"]
    pointers = [[fault["pointer"] for fault in line["error"]["errors"]] for line in told[1:5]]
    assert pointers == [["/text"], ["/text", "/no"], ["/texts/1"], [""]]
    job = (await api.client.get(f"/v1/jobs/{keys.line_id(batch['id'], 1)}")).json()
    assert (job["state"], job["error"]["code"], job["error"]["errors"][0]["pointer"]) == (
        "failed",
        "invalid_input",
        "/text",
    )


async def test_a_batch_in_which_nothing_fits_has_ended(api: Api) -> None:
    answer = await post_lines(api, b"[\n[\n", model="echo")
    batch = answer.json()
    assert (answer.status_code, batch["state"], batch["counts"]["failed"]) == (200, "completed", 2)
    assert batch["finished_at"] is not None
    assert [line["index"] for line in await results(api, batch["id"], follow="true")] == [0, 1]


@pytest.mark.parametrize(
    ("body", "status", "code", "pointers"),
    [
        ({"model": "no", "inputs": [1]}, 404, "model_not_found", None),
        ({"model": "echo", "inputs": []}, 422, "invalid_input", ["/inputs"]),
        ({"model": "echo", "inputs": {}}, 422, "invalid_input", ["/inputs"]),
        ({"model": "echo"}, 422, "invalid_input", ["/inputs"]),
        ({"inputs": [1]}, 422, "invalid_input", ["/model"]),
        ({"model": "echo", "inputs": [1], "priority": "x"}, 422, "invalid_input", ["/priority"]),
        ({"model": "echo", "inputs": [1], "input": 1}, 422, "invalid_input", ["/input"]),
        ({"model": "echo", "inputs": [1], "deadline_s": 0}, 422, "invalid_input", ["/deadline_s"]),
        (
            {"model": "echo", "inputs": [1], "parameters": {"sleep_ms": -1}},
            422,
            "invalid_input",
            ["/parameters/sleep_ms"],
        ),
        ({"model": "echo", "inputs": [1] * 100_001}, 413, "payload_too_large", None),
        ([1], 422, "invalid_input", [""]),
    ],
)
async def test_a_fault_of_the_whole_is_the_calls(
    api: Api, store: redis.Redis, body: object, *, status: int, code: str, pointers: list[str] | None
) -> None:
    answer = await api.client.post("/v1/batches", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    if pointers is not None:
        assert [fault["pointer"] for fault in problem["errors"]] == pointers
    await nothing_is_left(store)


@pytest.mark.parametrize(
    ("content", "query", "status", "pointer"),
    [
        (b"", {"model": "echo"}, 422, "/inputs"),
        (b"\n\n", {"model": "echo"}, 422, "/inputs"),
        (b"1\n", {}, 422, "/model"),
        (b"1\n", {"model": "echo", "labels": "{"}, 422, "/labels"),
        (b"1\n", {"model": "echo", "parameters": "[]"}, 422, "/parameters"),
        (b"1\n", {"model": "echo", "window": "1"}, 422, "/window"),
        (b"1\n" * 100_001, {"model": "echo"}, 422, "/inputs"),
        (b"\n" * 100_001 + b"1", {"model": "echo"}, 422, "/inputs"),
    ],
)
async def test_a_fault_of_the_whole_stream(
    api: Api, store: redis.Redis, content: bytes, query: dict[str, str], *, status: int, pointer: str
) -> None:
    answer = await post_lines(api, content, **query)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (status, pointer)
    await nothing_is_left(store)


async def test_other_bodies(api: Api) -> None:
    plain = await api.client.post("/v1/batches", content=b"1,2", headers={"content-type": "text/csv"})
    assert plain.status_code == 415
    broken = await api.client.post(
        "/v1/batches", content=b'{"model": "echo", "inputs": [1,', headers={"content-type": "application/json"}
    )
    assert (broken.status_code, broken.json()["code"]) == (400, "bad_request")


async def test_a_caller_who_breaks_off_leaves_nothing(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    async with serving(settings(redis_url, tmp_path, inline_bytes=0)) as api:
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(b"POST /v1/batches?model=echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n")
        writer.write(b"Content-Length: 10000000\r\n\r\n" + b"1\n" * 5000)
        await until(lambda: len(list(store.scan_iter(f"{keys.PAYLOAD}*"))) >= 4000, "slices are in")
        (upload,) = store.scan_iter(f"{keys.UPLOAD}*")
        batch_id = upload.decode().removeprefix(keys.UPLOAD)
        assert (await api.client.get(f"/v1/batches/{batch_id}")).status_code == 404, "it is none yet"
        assert not store.exists(keys.DEADLINES), "and nothing of it runs"
        writer.close()
        await nothing_is_left(store)


async def test_an_upload_has_an_end(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    async with serving(settings(redis_url, tmp_path, batch_upload_s=0.3)) as api:

        async def slow() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b"1\n"
                await asyncio.sleep(0.05)

        answer = await post_lines(api, slow(), model="echo")
        assert (answer.status_code, answer.json()["code"]) == (408, "request_timeout")
        await nothing_is_left(store)


async def test_an_idempotency_key_names_one_batch(api: Api, store: redis.Redis) -> None:
    async def post(content: bytes, **query: str) -> httpx.Response:
        headers = {"content-type": "application/jsonl", "idempotency-key": "k"}
        return await api.client.post("/v1/batches", params={"model": "echo"} | query, content=content, headers=headers)

    first = await post(lines(1, 2))
    again = await post(lines(1, 2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    for other in (await post(lines(1, 3)), await post(lines(1, 2), priority="high"), await post(lines(1, 2, 3))):
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    job = await api.client.post("/v1/jobs", json={"model": "echo", "input": 1}, headers={"idempotency-key": "k"})
    assert job.status_code == 202, "a job's key is another"
    await until(lambda: not list(store.scan_iter(f"{keys.UPLOAD}*")), "the others are gone")
    assert store.zcard(keys.BATCHES) == 1


async def test_cancel(api: Api, hands: Hands) -> None:
    batch = (await api.client.post("/v1/batches", json={"model": "echo", "inputs": list(range(30))})).json()
    url = f"/v1/batches/{batch['id']}"
    taken = await hands.take(10)
    await hands.finish_all(taken[:4])
    canceled = (await api.client.delete(url)).json()
    assert canceled["state"] == "canceled"
    assert (canceled["counts"]["running"], canceled["counts"]["canceled"], canceled["counts"]["queued"]) == (6, 20, 0)
    assert canceled["finished_at"] is None
    late = (await api.client.get(f"/v1/jobs/{keys.line_id(batch['id'], 29)}")).json()
    assert (late["state"], late["error"]["code"]) == ("canceled", "canceled")
    await hands.finish_all(taken[4:])
    ended = (await api.client.get(f"{url}?wait=5")).json()
    assert (ended["counts"]["succeeded"], ended["counts"]["canceled"]) == (4, 26)
    assert ended["finished_at"] is not None
    told = await results(api, batch["id"])
    assert [line["state"] for line in told] == ["succeeded"] * 4 + ["canceled"] * 26
    assert {line["error"]["code"] for line in told[4:]} == {"canceled"}
    again = (await api.client.delete(url)).json()
    assert again == ended, "what has ended is unchanged"


async def test_what_never_ran_makes_no_rate(api: Api) -> None:
    batch = (await api.client.post("/v1/batches", json={"model": "echo", "inputs": list(range(30))})).json()
    await api.client.delete(f"/v1/batches/{batch['id']}")
    ended = (await api.client.get(f"/v1/batches/{batch['id']}?wait=5")).json()
    assert (ended["counts"]["canceled"], ended["rate"]) == (30, None)


async def test_a_mistyped_question_is_told(api: Api) -> None:
    batch = (await api.client.post("/v1/batches", json={"model": "echo", "inputs": [1]})).json()
    for path, name in (("/v1/batches?modle=x", "modle"), (f"/v1/batches/{batch['id']}/results?folow=true", "folow")):
        answer = await api.client.get(path)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"/{name}")
    answer = await api.client.post("/v1/batches", json={"model": "echo", "input": [1]})
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/inputs", "/input"]


async def test_a_deadline_ends_all_of_it_with_no_worker(api: Api, store: redis.Redis) -> None:
    body = {"model": "echo", "inputs": list(range(30)), "deadline_s": 0.5}
    batch = (await api.client.post("/v1/batches", json=body)).json()
    ended = (await api.client.get(f"/v1/batches/{batch['id']}?wait=5")).json()
    assert (ended["state"], ended["counts"]["failed"]) == ("completed", 30)
    told = await results(api, batch["id"])
    assert [line["error"]["code"] for line in told] == ["deadline_exceeded"] * 30
    assert ended["expires_at"] > ended["deadline_at"]
    assert store.zcard(keys.BATCHES) == 0
    assert store.scard(keys.BATCHES_ON + "echo@1") == 0


async def test_results_are_followed_as_they_come(api: Api, hands: Hands) -> None:
    batch = (await api.client.post("/v1/batches", json={"model": "echo", "inputs": list(range(12))})).json()
    seen: list[int] = []

    async def follow() -> None:
        url = f"/v1/batches/{batch['id']}/results?follow=true&start=1"
        async with api.client.stream("GET", url) as answer:
            async for line in answer.aiter_lines():
                seen.append(orjson.loads(line)["index"])

    reading = asyncio.create_task(follow())
    taken = await hands.take(10)
    await hands.finish_all(taken[1:6])
    await until(lambda: seen == [1, 2, 3, 4, 5], "the first are told")
    await hands.finish_all([taken[0], *taken[6:]])
    await work(hands, 2)
    await asyncio.wait_for(reading, 10)
    assert seen == list(range(1, 12))


async def test_who_follows_and_goes_frees_everything(api: Api, hands: Hands) -> None:
    batch = (await api.client.post("/v1/batches", json={"model": "echo", "inputs": [1]})).json()
    before = len(asyncio.all_tasks())
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(f"GET /v1/batches/{batch['id']}/results?follow=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"200 OK" in await reader.readline()
        writer.close()
    await until(lambda: len(asyncio.all_tasks()) <= before, "their tasks have ended")


async def test_a_draining_api_lets_nobody_follow(api: Api) -> None:
    batch = (await api.client.post("/v1/batches", json={"model": "echo", "inputs": [1]})).json()
    api.parts.draining = True
    answer = await api.client.get(f"/v1/batches/{batch['id']}/results?follow=true", timeout=5)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_batches_are_listed_page_by_page(api: Api, store: redis.Redis) -> None:
    made = [(await post_lines(api, lines(n), model="echo")).json()["id"] for n in range(7)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    pages = 0
    while True:
        page = (await api.client.get("/v1/batches", params=query)).json()
        seen += [batch["id"] for batch in page["data"]]
        pages += 1
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert (seen, pages) == (made[::-1], 3)
    store.delete(keys.BATCH + made[3])  # as when it has expired
    assert [b["id"] for b in (await api.client.get("/v1/batches")).json()["data"]] == [*made[:3:-1], *made[2::-1]]
    assert store.zcard(keys.BATCHES_OF + "anonymous") == 6
    for wrong in ("?cursor=x", "?limit=0", "?limit=201"):
        assert (await api.client.get(f"/v1/batches{wrong}")).status_code == 422


@pytest.mark.parametrize("path", ["", "/results", "?wait=1"])
async def test_what_is_unknown_is_404(api: Api, path: str) -> None:
    for name in ("batch_" + "0" * 32, "x", "batch_"):
        answer = await api.client.get(f"/v1/batches/{name}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "batch_not_found")


async def test_binary_inputs_travel_beside_the_lines(api: Api, hands: Hands, store: redis.Redis) -> None:
    image = base64.b64encode(b"\x89PNG" * 10).decode()
    body = {"model": "cnn", "inputs": [{"image": image}, {"image": "%"}, {"images": [image, image]}] * 5}
    batch = (await api.client.post("/v1/batches", json=body)).json()
    assert batch["counts"]["failed"] == 5
    taken = await hands.take(10)
    assert [one.payloads for one in taken] == [["/image"], ["/images/0", "/images/1"]] * 5
    assert await hands.payloads(taken[1]) == [b"\x89PNG" * 10] * 2
    assert int(store.hget(keys.JOB + taken[1].job_id, "items") or 0) == 2
    await hands.finish_all(taken, Outcome(State.SUCCEEDED, output=1))
    await until(lambda: not list(store.scan_iter(f"{keys.PAYLOAD}*")), "payloads go with their lines")


async def test_canceled_lines_take_their_payloads_along(api: Api, store: redis.Redis) -> None:
    image = base64.b64encode(b"\x89PNG" * 10).decode()
    batch = (await api.client.post("/v1/batches", json={"model": "cnn", "inputs": [{"image": image}] * 700})).json()
    assert len(list(store.scan_iter(f"{keys.PAYLOAD}*"))) == 700
    canceled = (await api.client.delete(f"/v1/batches/{batch['id']}")).json()
    assert (canceled["state"], canceled["counts"]["canceled"]) == ("canceled", 700)
    await until(lambda: not list(store.scan_iter(f"{keys.PAYLOAD}*")), "in slices")
    await until(lambda: store.zcard(keys.BATCHES) == 0, "nothing is left to do")


async def test_a_full_queue_holds_lines_back_and_then_lets_them_in(redis_url: str, tmp_path: Path) -> None:
    """`tiny` takes two jobs: a batch has one of the places at most, and none while others have both."""
    async with serving(asked := settings(redis_url, tmp_path)) as api:
        hands = Hands.on(asked)
        for _ in range(2):
            await api.client.post("/v1/jobs", json={"model": "tiny", "input": 0})
        batch = (await api.client.post("/v1/batches", json={"model": "tiny", "inputs": [1, 2, 3]})).json()
        await hands.finish_all(await hands.take(2))
        seen: list[int] = []
        while len(seen) < 3:
            taken = await hands.take(1)
            begun = [one.kwargs["input"] for one in taken if one.kwargs["input"]]
            assert len(begun) <= 1, "its part of the queue"
            more = await api.client.post("/v1/jobs", json={"model": "tiny", "input": 0})
            assert more.status_code == 202 or len(taken) == 2, "beside a batch there is room for others"
            seen += begun
            await hands.finish_all(taken)
        assert seen == [1, 2, 3]
        done = (await api.client.get(f"/v1/batches/{batch['id']}?wait=5")).json()
        assert done["counts"]["succeeded"] == 3
        await hands.client.aclose()


async def test_metrics_and_the_openapi_tell_of_batches(api: Api, hands: Hands) -> None:
    await post_lines(api, lines(1), model="echo")
    for _ in range(2):  # the second is the same batch, not one more
        body = {"model": "echo", "inputs": [1] * 25}
        await api.client.post("/v1/batches", json=body, headers={"Idempotency-Key": "k"})
    told = (await api.client.get("/metrics")).text
    assert "ml_batches_total 2.0" in told
    assert 'ml_batch_lines_waiting{model="echo",version="1"} 15.0' in told
    assert 'ml_queue_depth{model="echo",version="1"} 11.0' in told
    assert 'ml_queue_oldest_seconds{model="echo",version="1"} 0.0' in told, "what waits by design is no alarm"
    await work(hands, 12)
    told = (await api.client.get("/metrics")).text
    assert 'ml_job_seconds_count{model="echo",version="1"} 0.0' in told, "nor is it slow"
    assert 'ml_jobs{model="echo",state="succeeded",version="1"} 12.0' in told
    paths = (await api.client.get("/openapi.json")).json()["paths"]
    assert {"/v1/batches", "/v1/batches/{batch_id}", "/v1/batches/{batch_id}/results"} <= paths.keys()
