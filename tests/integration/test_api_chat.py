"""`/v1/chat/completions` on the wire, answered whole (the stream: test_api_chat_stream.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis

from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from shared.errors import Fault
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings, until

MODELS = """
models:
  gpt: {task: chat, versions: {"1": {source: "openai:gpt-4o-mini"}}, limits: {queue: 2}}
  llama: {task: text-generation, versions: {"1": {source: a}}}
  own: {handler: "own.py:Own", versions: {"1": {}}}
  bert: {task: text-embedding, versions: {"1": {source: a}}}
"""
HELLO = [{"role": "user", "content": "Hello"}]
ODD_CALLS = {"message": {"content": None, "tool_calls": ["x"]}}
ANSWER = {
    "message": {"role": "assistant", "content": "Hi!"},
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, MODELS)) as running:
        yield running


async def call(api: Api, body: Any, **headers: str) -> httpx.Response:
    return await api.client.post("/v1/chat/completions", json=body, headers=headers)


async def ended(api: Api, hands: Hands, body: Any, outcome: Outcome, **headers: str) -> tuple[httpx.Response, Any]:
    """The answer, and what came to the worker."""
    asked = asyncio.create_task(call(api, body, **headers))
    (job,) = await hands.take()
    await hands.finish(job, outcome)
    return await asked, job.kwargs


async def answered(api: Api, hands: Hands, body: Any, output: Any, **headers: str) -> tuple[httpx.Response, Any]:
    body = {"messages": HELLO} | body
    answer, job = await ended(api, hands, body, Outcome(State.SUCCEEDED, output=output, tokens=5), **headers)
    return answer, job


async def test_a_model_that_chats(api: Api, hands: Hands) -> None:
    given = {"temperature": 0.5, "max_tokens": 9, "stop": ["x"], "seed": None}
    answer, job = await answered(api, hands, {"model": "gpt", "user": "u1", **given}, ANSWER)
    assert job["input"] == {"messages": HELLO}
    assert job["parameters"] == {"temperature": 0.5, "max_tokens": 9, "stop": ["x"]}
    body = answer.json()
    job_id = body["id"].removeprefix("chatcmpl-")
    told = (await api.client.get(answer.headers["location"])).json()
    assert (told["id"], told["labels"], answer.headers["ml-model"]) == (job_id, {"user": "u1"}, "gpt@1")
    assert body.pop("created") > 1_700_000_000
    assert body == {
        "id": f"chatcmpl-{job_id}",
        "object": "chat.completion",
        "model": "gpt",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }


async def test_what_belongs_to_messages_goes_both_ways(api: Api, hands: Hands) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "Ann", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    tools = [{"type": "function", "function": {"name": "add"}}]
    output = {"message": {"role": "assistant", "content": None, "tool_calls": calls}}
    answer, job = await answered(api, hands, {"model": "gpt", "messages": messages, "tools": tools}, output)
    assert (job["input"], job["parameters"]) == ({"messages": messages}, {"tools": tools})
    (choice,) = answer.json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None, "tool_calls": calls}
    assert choice["finish_reason"] == "tool_calls"
    assert answer.json()["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}, "what was counted"


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({}, {}),
        ({"max_tokens": 9}, {"max_new_tokens": 9}),
        ({"max_completion_tokens": 9, "temperature": 0}, {"max_new_tokens": 9, "do_sample": False}),
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5}),
        ({"temperature": 0, "top_p": 0.5}, {"do_sample": False}),
        ({"top_p": 0.5}, {"do_sample": True, "top_p": 0.5}),
        ({"stop": "x"}, {"stop_sequence": ["x"]}),
        ({"frequency_penalty": 0, "tools": [], "response_format": {"type": "text"}, "n": 1, "stop": []}, {}),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Hm"}]}, {"continue_final_message": False}),
    ],
)
async def test_a_pipeline_that_generates(api: Api, hands: Hands, asked: Any, given: Any) -> None:
    said = {"role": "assistant", "content": "Hi! x y"}
    output = [{"generated_text": [*HELLO, said], "finish_reason": "length", "tokens": 3}]
    answer, job = await answered(api, hands, {"model": "llama", **asked}, output)
    assert job["input"]["text"][:1] == HELLO
    assert job["parameters"] == given
    (choice,) = answer.json()["choices"]
    assert choice["message"]["content"] == ("Hi! " if asked.get("stop") else "Hi! x y")
    assert choice["finish_reason"] == "length"
    assert answer.json()["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


async def test_a_pipeline_reads_text_alone(api: Api, hands: Hands) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
    ]
    output = [{"generated_text": [{"role": "assistant", "content": "Hi"}]}]
    answer, job = await answered(api, hands, {"model": "llama", "messages": messages}, output)
    assert job["input"] == {"text": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]}
    assert answer.json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("output", "message", "reason", "usage"),
    [
        ("Hi", {"content": "Hi"}, "stop", [5, 0]),
        ({"text": "Hi"}, {"content": "Hi"}, "stop", [5, 0]),
        ({"content": "Hi", "finish_reason": "length"}, {"content": "Hi"}, "length", [5, 0]),
        ({"message": {"content": "Hi", "mood": "good"}}, {"content": "Hi", "mood": "good"}, "stop", [5, 0]),
        ({"message": {"content": [{"type": "text", "text": "Hi"}]}}, {"content": "Hi"}, "stop", [5, 0]),
        (ANSWER, {"content": "Hi!"}, "stop", [7, 2]),
        ({"text": "Hi", "usage": {"completion_tokens": 3}}, {"content": "Hi"}, "stop", [5, 3]),
    ],
)
async def test_a_handler_of_ones_own(
    api: Api, hands: Hands, output: Any, message: Any, *, reason: str, usage: list[int]
) -> None:
    answer, job = await answered(api, hands, {"model": "own", "seed": 3}, output)
    assert (job["input"], job["parameters"]) == ({"messages": HELLO}, {"seed": 3})
    (choice,) = answer.json()["choices"]
    assert choice["message"] == {"role": "assistant", "refusal": None} | message
    assert choice["finish_reason"] == reason
    assert list(answer.json()["usage"].values()) == [*usage, sum(usage)]


@pytest.mark.parametrize(
    "output", [{"labels": []}, [1], 7, None, {"text": 7}, {"message": "Hi"}, {"message": {}}, ODD_CALLS]
)
async def test_what_is_no_answer_of_a_chat(api: Api, hands: Hands, output: Any) -> None:
    for model in ("own", "llama"):
        answer, _ = await answered(api, hands, {"model": model}, output)
        if output == {"message": {}} and model == "own":
            assert answer.json()["choices"][0]["message"]["content"] is None
            continue
        told = answer.json()["error"]
        assert (answer.status_code, told["param"], told["code"]) == (400, "model", "invalid_value")
        assert answer.headers["location"].startswith("/v1/jobs/")


async def leave_schema(hands: Hands, model: str, item: Any, parameters: Any) -> None:
    """As a worker does that serves it."""
    told = {"input_schema": {"type": "object", **item}, "parameters_schema": {"type": "object", **parameters}}
    await hands.client.set(keys.SCHEMA + model, orjson.dumps(told), ex=60)


async def test_a_handler_that_reads_no_messages(api: Api, hands: Hands) -> None:
    await leave_schema(hands, "own@1", {"properties": {"text": {"type": "string"}}, "required": ["text"]}, {})
    answer = await call(api, {"model": "own", "messages": HELLO})
    told = answer.json()["error"]
    assert (answer.status_code, told["param"]) == (400, "model")
    assert "no model that chats" in told["message"]


async def test_what_a_handlers_schema_refuses_has_its_place(api: Api, hands: Hands) -> None:
    item = {"type": "object", "properties": {"content": {"type": "string"}}}
    fields = {"properties": {"messages": {"type": "array", "items": item}}, "additionalProperties": False}
    strict = {"properties": {"seed": {"type": "integer"}}, "additionalProperties": False}
    await leave_schema(hands, "own@1", fields, strict)
    parts = [*HELLO, {"role": "user", "content": [{"type": "text", "text": "x"}]}]
    for body, param in (({"messages": parts}, "messages[1].content"), ({"messages": HELLO, "top_p": 1}, "top_p")):
        answer = await call(api, {"model": "own", **body})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"model": "gpt"}, 400, "messages", "invalid_value"),
        ({"model": "gpt", "messages": []}, 400, "messages", "invalid_value"),
        ({"model": "gpt", "messages": None}, 400, "messages", "invalid_value"),
        ({"messages": HELLO}, 400, "model", "invalid_value"),
        ({"model": "gpt", "messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role", "invalid_value"),
        ({"model": "gpt", "messages": HELLO, "colour": "red"}, 400, "colour", "invalid_value"),
        ({"model": "gpt", "messages": HELLO, "store": True}, 400, "store", "invalid_value"),
        ({"model": "gpt", "messages": HELLO, "n": 2}, 400, "n", "invalid_value"),
        ({"model": "gpt", "messages": HELLO, "temperature": 3}, 400, "temperature", "invalid_value"),
        ({"model": "gpt", "messages": HELLO, "stream_options": {"x": 1}}, 400, "stream_options.x", "invalid_value"),
        ({"model": "bert", "messages": HELLO}, 400, "model", "invalid_value"),
        ({"model": "nope", "messages": HELLO}, 404, None, "model_not_found"),
        ({"model": "llama", "messages": HELLO, "seed": 0}, 400, "seed", "invalid_value"),
        ({"model": "llama", "messages": HELLO, "tools": [{}]}, 400, "tools", "invalid_value"),
        ({"model": "llama", "messages": HELLO, "presence_penalty": 1}, 400, "presence_penalty", "invalid_value"),
        ({"model": "llama", "messages": HELLO, "max_tokens": 10**6}, 400, "max_tokens", "invalid_value"),
        ({"model": "llama", "messages": HELLO, "top_p": 0}, 400, "top_p", "invalid_value"),
        ({"model": "llama", "messages": HELLO, "max_tokens": 1, "max_completion_tokens": 1}, 400, "max_tokens", None),
        ({"model": "llama", "messages": [{**HELLO[0], "name": "A"}]}, 400, "messages[0].name", "invalid_value"),
        ({"model": "llama", "messages": [{"role": "user"}]}, 400, "messages[0].content", "invalid_value"),
        (["a"], 400, None, "invalid_value"),
    ],
)
async def test_what_is_wrong_is_named(api: Api, body: Any, status: int, param: str | None, code: str | None) -> None:
    for more in ({}, {"stream": True}):
        answer = await call(api, body | more if isinstance(body, dict) else body)
        told = answer.json()["error"]
        assert (answer.status_code, told["param"], told["code"]) == (status, param, code or "invalid_value")
        assert answer.headers["content-type"] == "application/json"
        assert told["message"]


@pytest.mark.parametrize(
    ("model", "fault", "param"),
    [
        ("gpt", "/messages/0/content", "messages[0].content"),
        ("gpt", "/parameters/max_tokens", "max_tokens"),
        ("gpt", "", None),
        ("llama", "/text", "messages"),
        ("llama", "/text/0/content", "messages[0].content"),
        ("llama", "/parameters/max_new_tokens", "max_tokens"),
    ],
)
async def test_what_the_worker_refuses_has_its_place(
    api: Api, hands: Hands, model: str, fault: str, param: str | None
) -> None:
    faults = [Fault(pointer=fault, message="too much")]
    failed = Outcome(State.FAILED, code="invalid_input", message="too much", faults=faults)
    answer, _ = await ended(api, hands, {"model": model, "messages": HELLO, "max_tokens": 9}, failed)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(("code", "status"), [("predict_error", 500), ("model_unavailable", 503), ("timeout", 504)])
async def test_how_a_job_failed_is_the_status(api: Api, hands: Hands, code: str, status: int) -> None:
    failed = Outcome(State.FAILED, code=code, message="it broke")
    answer, _ = await ended(api, hands, {"model": "gpt", "messages": HELLO}, failed)
    told = answer.json()["error"]
    assert (answer.status_code, told["message"], told["type"]) == (status, "it broke", "server_error")
    assert answer.headers["location"].startswith("/v1/jobs/")


async def test_a_full_queue_and_a_short_patience(api: Api, hands: Hands) -> None:
    body = {"model": "gpt", "messages": HELLO}
    waiting = [asyncio.create_task(call(api, body)) for _ in range(2)]
    await until(lambda: hands.client.zcard("ml:deadlines"), "they are queued")
    taken = await hands.take(2)
    answer = await call(api, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    for job in taken:
        await hands.finish(job, Outcome(State.SUCCEEDED, output=ANSWER))
    assert {one.status_code for one in await asyncio.gather(*waiting)} == {200}
    answer = await call(api, body, **{"x-stainless-read-timeout": "0.4"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (504, "false")


async def test_keys(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    for name, scopes, models in (("a", {Scope.READ}, None), ("b", {Scope.SUBMIT}, frozenset({"bert"}))):
        key = ApiKey(id=name, name=name, scopes=frozenset(scopes), models=models)
        store.hset(keys.KEYS, digest(f"mls_{name}"), key.model_dump_json())
    body = {"model": "gpt", "messages": HELLO}
    async with serving(settings(redis_url, tmp_path, MODELS, auth="on")) as api:
        answer = await call(api, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        for secret in ("mls_a", "mls_b"):
            answer = await call(api, body, Authorization=f"Bearer {secret}")
            assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
