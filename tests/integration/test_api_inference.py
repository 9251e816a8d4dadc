"""`POST /inference`: the seed's contract, every way a call can end, files, and callers who go away."""

from __future__ import annotations

import asyncio
import base64
import gzip
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis

from shared import keys
from shared.errors import Fault
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings, until

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, inference_wait_s=3)) as running:
        yield running


def ask(api: Api, body: Any, **headers: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(api.client.post("/inference", json=body, headers=headers))


async def test_the_output_comes_back(api: Api, hands: Hands) -> None:
    call = ask(api, {"model_type": "bert", "data": {"text": "hi"}, "parameters": {"normalize": True}})
    (taken,) = await hands.take()
    assert taken.kwargs["parameters"] == {"normalize": True}
    timing = {"batch_size": 4, "predict_ms": 2.5, "worker": "w"}
    await hands.finish(taken, Outcome(State.SUCCEEDED, output={"embedding": [0.5, 1.0]}, timing=timing))
    answer = await call
    body = answer.json()
    assert answer.status_code == 200
    assert body.pop("timing") == timing | {"queue_ms": pytest.approx(0, abs=3000)}
    expected = {"job_id": taken.job_id, "model": "bert", "version": "1", "output": {"embedding": [0.5, 1.0]}}
    assert body == expected
    assert answer.headers["location"] == f"/v1/jobs/{taken.job_id}"


async def test_a_large_output_comes_back(api: Api, hands: Hands) -> None:
    call = ask(api, {"model_type": "echo", "data": 1})
    (taken,) = await hands.take()
    await hands.finish(taken, Outcome(State.SUCCEEDED, output="x" * 300_000))
    assert (await call).json()["output"] == "x" * 300_000


async def test_failed_positions_of_a_partial_call_point_into_data(api: Api, hands: Hands) -> None:
    body = {"model_type": "bert", "data": {"texts": ["a", ""]}, "parameters": {"partial": True}}
    call = ask(api, body)
    (taken,) = await hands.take()
    fault = Fault(pointer="/texts/1", message="too short")
    await hands.finish(taken, Outcome(State.SUCCEEDED, output={"embeddings": [[1.0], None]}, faults=[fault]))
    answer = (await call).json()
    assert answer["output"] == {"embeddings": [[1.0], None]}
    assert answer["errors"] == [{"pointer": "/data/texts/1", "code": "invalid_input", "message": "too short"}]


@pytest.mark.parametrize(
    ("code", "status", "retry"),
    [
        ("invalid_input", 422, None),
        ("model_unavailable", 503, None),
        ("out_of_memory", 507, "false"),
        ("timeout", 504, "false"),
        ("deadline_exceeded", 504, "false"),
        ("predict_error", 500, "false"),
        ("handler_contract", 500, "false"),
        ("attempts_exhausted", 500, "false"),
    ],
)
async def test_a_failed_job_is_a_problem(api: Api, hands: Hands, code: str, status: int, retry: str | None) -> None:
    call = ask(api, {"model_type": "bert", "data": {"text": "hi"}})
    (taken,) = await hands.take()
    faults = [Fault(pointer="/text", message="m"), Fault(pointer="/parameters/p", message="m")]
    await hands.finish(taken, Outcome(State.FAILED, code=code, message="why", faults=faults))
    answer = await call
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["detail"]) == (status, code, "why")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get("x-should-retry") == retry
    assert [fault["pointer"] for fault in problem["errors"]] == ["/data/text", "/parameters/p"]
    assert problem["job"] == answer.headers["location"] == f"/v1/jobs/{taken.job_id}"


async def test_a_canceled_job_is_409(api: Api, hands: Hands) -> None:
    call = ask(api, {"model_type": "echo", "data": 1})
    (taken,) = await hands.take()
    await api.client.delete(f"/v1/jobs/{taken.job_id}")
    await hands.finish(taken)
    answer = await call
    assert (answer.status_code, answer.json()["code"]) == (409, "canceled")


async def test_the_end_of_the_wait_is_504_with_the_jobs_url(redis_url: str, tmp_path: Path) -> None:
    async with serving(settings(redis_url, tmp_path, inference_wait_s=0.3)) as api:
        answer = await api.client.post("/inference", json={"model_type": "echo", "data": 1})
        assert (answer.status_code, answer.json()["code"]) == (504, "wait_ended")
        assert answer.headers["x-should-retry"] == "false"
        assert answer.json()["job"] == answer.headers["location"]

        async def ended() -> bool:
            job = (await api.client.get(answer.headers["location"])).json()
            return job["state"] == "failed" and job["error"]["code"] == "deadline_exceeded"

        await until(ended, "the wait cap was the deadline, and the sweep ends the job")


async def test_a_deadline_of_the_callers_own(api: Api, store: redis.Redis) -> None:
    answer = await api.client.post("/inference", json={"model_type": "echo", "data": 1, "deadline_s": 0.5})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


async def test_a_shorter_wait_is_honoured(api: Api) -> None:
    answer = await api.client.post("/inference", json={"model_type": "echo", "data": 1}, headers={"Prefer": "wait=0"})
    assert (answer.status_code, answer.json()["code"]) == (504, "wait_ended")


async def test_respond_async_is_202_with_a_long_deadline(api: Api) -> None:
    answer = await api.client.post(
        "/inference", json={"model_type": "echo", "data": 1}, headers={"Prefer": "respond-async"}
    )
    job = answer.json()
    assert (answer.status_code, job["state"]) == (202, "queued")
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["preference-applied"] == "respond-async"
    assert job["deadline_at"][:10] > job["created_at"][:10]


@pytest.mark.parametrize(
    ("body", "status", "pointers"),
    [
        ({"data": 1}, 422, ["/model_type"]),
        ({"model_type": "bert"}, 422, ["/data"]),
        ({"model_type": "bert", "data": {"text": ["x"]}}, 422, ["/data/text"]),
        ({"model_type": "bert", "data": {"texts": ["a", None]}}, 422, ["/data/texts/1"]),
        ({"model_type": "bert", "data": {"text": "x"}, "parameters": {"nope": 1}}, 422, ["/parameters/nope"]),
        ({"model_type": "bert", "data": {"text": "x"}, "parameters": 3}, 422, ["/parameters"]),
        ({"model_type": "bert", "input": {"text": "x"}}, 422, ["/input", "/data"]),
        ({"model_type": "gpt", "data": 1}, 404, None),
        ({"model_type": "tiny", "data": "x" * 101}, 413, None),
    ],
)
async def test_wrong_calls_are_named(api: Api, body: Any, status: int, pointers: list[str] | None) -> None:
    answer = await api.client.post("/inference", json=body)
    assert answer.status_code == status
    assert [fault["pointer"] for fault in answer.json().get("errors", [])] == (pointers or [])


async def test_no_slash_redirect(api: Api) -> None:
    answer = await api.client.post("/inference/", json={"model_type": "echo", "data": 1})
    assert answer.status_code == 404


async def test_the_only_model_needs_no_name(redis_url: str, tmp_path: Path) -> None:
    asked = settings(redis_url, tmp_path, "models: {echo: {task: echo, versions: {'1': {}}}}")
    async with serving(asked) as api:
        hands = Hands.on(asked)
        call = ask(api, {"data": 5})
        await hands.finish((await hands.take())[0])
        assert (await call).json()["output"] == 5
        await hands.client.aclose()


async def test_a_repeated_idempotency_key_gets_the_first_answer(api: Api, hands: Hands) -> None:
    body = {"model_type": "echo", "data": 1}
    calls = [ask(api, body, **{"Idempotency-Key": "a"}) for _ in range(3)]
    (taken,) = await hands.take()
    await until(lambda: len(api.parts.waiter._futures.get(taken.job_id, [])) == 3, "all wait for one job")
    await hands.finish(taken)
    assert {(await call).json()["job_id"] for call in calls} == {taken.job_id}
    again = await ask(api, body, **{"Idempotency-Key": "a"})
    assert again.json()["job_id"] == taken.job_id


@pytest.mark.parametrize("key", [b"", b"k" * 256, "schl\u00fcssel".encode()])
async def test_an_idempotency_key_is_plain_text(api: Api, key: bytes) -> None:
    body = {"model": "echo", "input": 1}
    refused = await api.client.post("/v1/jobs", json=body, headers=[(b"Idempotency-Key", key)])
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")
    assert "Idempotency-Key" in refused.json()["detail"]


async def test_request_ids(api: Api) -> None:
    given = await api.client.get("/livez", headers={"X-Request-ID": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    made = [
        (await api.client.get("/livez", headers={"X-Request-ID": bad})).headers["x-request-id"] for bad in ("", "a b")
    ]
    assert len(set(made)) == 2
    assert all(len(one) == 32 for one in made)


# Files -------------------------------------------------------------------------------------------


async def test_a_raw_image(api: Api, hands: Hands) -> None:
    url = "/inference?model_type=cnn&parameters=%7B%22top_k%22%3A%202%7D"
    call = asyncio.create_task(api.client.post(url, content=PNG, headers={"content-type": "image/png"}))
    (taken,) = await hands.take()
    assert (taken.kwargs["input"], taken.payloads) == ({"image": None}, ["/image"])
    assert taken.kwargs["parameters"] == {"top_k": 2}
    assert await hands.payloads(taken) == [PNG]
    await hands.finish(taken)
    assert (await call).status_code == 200
    job = await api.client.post("/v1/jobs?model=cnn", content=PNG, headers={"content-type": "image/png"})
    assert job.status_code == 202
    (taken,) = await hands.take()
    assert await hands.payloads(taken) == [PNG]


async def test_wrong_raw_bodies(api: Api) -> None:
    headers = {"content-type": "image/png"}
    empty = await api.client.post("/inference?model_type=cnn", content=b"", headers=headers)
    assert (empty.status_code, empty.json()["code"]) == (400, "bad_request")
    unnamed = await api.client.post("/inference", content=PNG, headers=headers)
    assert unnamed.json()["errors"][0]["pointer"] == "/model_type"
    text = await api.client.post("/inference?model_type=bert", content=PNG, headers=headers)
    assert text.status_code == 422
    bad = await api.client.post("/inference?model_type=cnn&parameters={", content=PNG, headers=headers)
    assert bad.json()["errors"][0]["pointer"] == "/parameters"


async def test_multipart(api: Api, hands: Hands) -> None:
    form = {"model_type": "cnn", "parameters": '{"top_k": 1}'}
    call = asyncio.create_task(api.client.post("/inference", data=form, files={"image": ("a.png", PNG, "image/png")}))
    (taken,) = await hands.take()
    assert (taken.kwargs["input"], taken.kwargs["parameters"]) == ({"image": None}, {"top_k": 1})
    assert await hands.payloads(taken) == [PNG]
    await hands.finish(taken)
    assert (await call).status_code == 200

    several = [("images", ("a.png", PNG)), ("images", ("b.png", b"other"))]
    await api.client.post("/v1/jobs", data={"model": "cnn"}, files=several)
    (taken,) = await hands.take()
    assert (taken.kwargs["input"], await hands.payloads(taken)) == ({"images": [None, None]}, [PNG, b"other"])
    await api.client.post("/v1/jobs", data={"model": "cnn"}, files=several[:1])
    (taken,) = await hands.take()
    assert taken.kwargs["input"] == {"images": [None]}

    await api.client.post("/v1/jobs", data={"model": "echo", "input": '{"a": 1}'}, files={"f": ("f", b"z")})
    (taken,) = await hands.take()
    assert (taken.kwargs["input"], await hands.payloads(taken)) == ({"a": 1, "f": None}, [b"z"])


async def test_wrong_multipart(api: Api) -> None:
    unknown = await api.client.post("/inference", data={"model_type": "cnn"}, files={"picture": ("a", PNG)})
    assert unknown.status_code == 422
    assert {fault["pointer"] for fault in unknown.json()["errors"]} == {"/data/image", "/data/picture"}
    extra = await api.client.post("/inference", data={"model_type": "cnn", "x": "1"}, files={"image": ("a", PNG)})
    assert extra.json()["errors"][0]["pointer"] == "/x"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    broken = await api.client.post("/inference", content=b"nonsense", headers=headers)
    assert (broken.status_code, broken.json()["code"]) == (400, "bad_request")
    unbound = await api.client.post("/inference", content=b"x", headers={"content-type": "multipart/form-data"})
    assert unbound.status_code == 400


# A handler of the user's own ----------------------------------------------------------------------

OWN = {
    "task": "custom",
    "input_schema": {
        "$defs": {"Box": {"type": "object", "properties": {"w": {"type": "integer"}}, "required": ["w"]}},
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "photo": {"type": "string", "contentEncoding": "base64"},
                    "box": {"$ref": "#/$defs/Box"},
                },
                "required": ["photo"],
                "additionalProperties": False,
            },
            {"type": "array", "items": {"type": "object", "properties": {"photo": {"type": "string"}}}, "minItems": 1},
        ],
    },
    "parameters_schema": {"type": "object", "properties": {"k": {"type": "integer"}}, "additionalProperties": False},
}


async def test_a_handlers_own_schema(api: Api, hands: Hands, store: redis.Redis) -> None:
    store.set(keys.SCHEMA + "own@1", orjson.dumps(OWN), ex=60)
    cases: list[tuple[Any, Any, list[str]]] = [
        ({}, None, ["/data/photo"]),
        ({"photo": 3, "box": {"w": "x"}}, None, ["/data/photo", "/data/box/w"]),
        ({"photo": "QQ==", "box": {}, "z": 1}, None, ["/data/z", "/data/box/w"]),
        ([], None, ["/data"]),
        ([{"photo": 1}], None, ["/data/0/photo"]),
        ({"photo": "QQ=="}, {"k": "x", "j": 1}, ["/parameters/k", "/parameters/j"]),
        ({"photo": "QQ=="}, {"partial": "x"}, ["/parameters/partial"]),
    ]
    for data, parameters, pointers in cases:
        answer = await api.client.post("/inference", json={"model_type": "own", "data": data, "parameters": parameters})
        assert answer.status_code == 422, data
        assert sorted(fault["pointer"] for fault in answer.json()["errors"]) == sorted(pointers)
    await api.client.post("/v1/jobs", json={"model": "own", "input": {"photo": "QQ=="}, "parameters": {"k": 1}})
    (taken,) = await hands.take()
    assert (taken.payloads, await hands.payloads(taken)) == (["/photo"], [b"A"])
    await api.client.post("/v1/jobs?model=own", content=PNG, headers={"content-type": "image/png"})
    (taken,) = await hands.take()
    assert (taken.payloads, await hands.payloads(taken)) == (["/photo"], [PNG])
    partial = {"model": "own", "input": [{"photo": 1}], "parameters": {"partial": True}}
    assert (await api.client.post("/v1/jobs", json=partial)).status_code == 202


async def test_without_a_schema_anything_is_queued(api: Api, hands: Hands) -> None:
    await api.client.post("/v1/jobs", json={"model": "own", "input": {"photo": "QQ=="}})
    (taken,) = await hands.take()
    assert taken.kwargs["input"] == {"photo": "QQ=="}


# Callers who go away ------------------------------------------------------------------------------


async def call_by_socket(port: int, body: Any, *headers: str) -> socket.socket:
    content = orjson.dumps(body)
    if "Content-Encoding: gzip" in headers:
        content = gzip.compress(content)
    lines = ["POST /inference HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    raw = writer.get_extra_info("socket").dup()
    writer.write("\r\n".join([*lines, *headers, "", ""]).encode() + content)
    await writer.drain()
    writer.transport.abort()
    return raw  # keeps the connection open until it is killed


def kill(connection: socket.socket) -> None:
    """Close with a reset, as a killed process's kernel may."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def state(store: redis.Redis) -> dict[str, str]:
    found = {}
    for key in store.scan_iter(keys.JOB + "*"):
        found[key.decode().removeprefix(keys.JOB)] = store.hget(key, "state").decode()
    return found


@pytest.mark.parametrize("headers", [(), ("Content-Encoding: gzip",)])
async def test_a_caller_who_goes_cancels_what_is_queued(api: Api, store: redis.Redis, headers: tuple[str, ...]) -> None:
    connection = await call_by_socket(api.port, {"model_type": "echo", "data": 1}, *headers)
    await until(lambda: list(state(store).values()) == ["queued"], "queued")
    kill(connection)
    await until(lambda: list(state(store).values()) == ["canceled"], "canceled")
    assert len(api.parts.waiter) == 0


async def test_but_not_what_runs(api: Api, store: redis.Redis, hands: Hands) -> None:
    connection = await call_by_socket(api.port, {"model_type": "echo", "data": 1})
    (taken,) = await hands.take()
    kill(connection)
    await until(lambda: len(api.parts.waiter) == 0, "the disconnect is seen")
    await hands.finish(taken)
    assert list(state(store).values()) == ["succeeded"]


async def test_nor_what_has_an_idempotency_key(api: Api, store: redis.Redis) -> None:
    connection = await call_by_socket(api.port, {"model_type": "echo", "data": 1}, "Idempotency-Key: a")
    await until(lambda: len(state(store)) == 1, "queued")
    kill(connection)
    await until(lambda: len(api.parts.waiter) == 0, "the disconnect is seen")
    assert (await api.client.get(f"/v1/jobs/{next(iter(state(store)))}")).json()["state"] == "queued"


async def test_nor_what_somebody_else_waits_for(
    api: Api, store: redis.Redis, hands: Hands, tmp_path: Path, redis_url: str
) -> None:
    async with serving(settings(redis_url, tmp_path)) as other:
        for follower in (api, other):
            connection = await call_by_socket(api.port, {"model_type": "echo", "data": 1})
            await until(lambda: "queued" in state(store).values(), "queued")
            job_id = next(job_id for job_id, now in state(store).items() if now == "queued")
            polled = asyncio.create_task(follower.client.get(f"/v1/jobs/{job_id}?wait=5"))
            if follower is api:
                await until(lambda job_id=job_id: len(api.parts.waiter._futures.get(job_id, [])) == 2, "two wait")
            else:
                await until(lambda: len(other.parts.waiter) == 1, "the other process waits")
                await until(lambda key=keys.JOB + job_id: b"\n" in store.hget(key, "waiters"), "and is written down")
            kill(connection)
            await until(
                lambda n=int(follower is api), job_id=job_id: len(api.parts.waiter._futures.get(job_id, [])) == n
            )
            await hands.finish((await hands.take())[0])
            assert (await polled).json()["state"] == "succeeded"


async def test_a_lost_submitter_does_not_cancel_a_job_of_v1(api: Api, store: redis.Redis) -> None:
    content = orjson.dumps({"model": "echo", "input": 1})
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nPrefer: wait=5\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    await until(lambda: len(api.parts.waiter) == 1, "it waits")
    writer.transport.abort()
    await until(lambda: len(api.parts.waiter) == 0, "the disconnect is seen")
    assert list(state(store).values()) == ["queued"]


async def test_base64_of_one_image(api: Api, hands: Hands) -> None:
    call = ask(api, {"model_type": "cnn", "data": {"image": base64.b64encode(PNG).decode()}})
    (taken,) = await hands.take()
    assert await hands.payloads(taken) == [PNG]
    await hands.finish(taken)
    assert (await call).status_code == 200
