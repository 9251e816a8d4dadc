"""`/v1/chat/completions` with `stream`: the answer while it is written, and what comes of it when something breaks."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from local.embedded import EmbeddedServer
from shared import keys, scripts
from shared.scripts_jobs import say
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, Taken, serving, settings, until

MODELS = """
models:
  gpt: {task: chat, versions: {"1": {source: "openai:gpt-4o-mini"}}}
  llama: {task: text-generation, versions: {"1": {source: a}}}
  own: {handler: "own.py:Own", versions: {"1": {}}}
"""
HELLO = [{"role": "user", "content": "Hello"}]
PATH = "/v1/chat/completions"


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, MODELS, drain_s=30)) as running:
        yield running


@dataclass(eq=False)
class Stream:
    """What has come of one answer: the data of its events, and comments; `body` of one that is no stream."""

    events: list[Any] = field(default_factory=list)
    comments: int = 0
    answer: httpx.Response | None = None
    body: bytes = b""
    ended: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def text(self) -> str:
        return "".join(delta.get("content") or "" for delta in self.deltas)

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [choice["delta"] for event in self.events if "choices" in event for choice in event["choices"]]

    @property
    def error(self) -> dict[str, Any]:
        """Which the stream has ended with."""
        found: dict[str, Any] = self.events[-1]["error"]
        return found

    @property
    def status(self) -> int:
        return self.answer.status_code if self.answer else 0

    async def read(self, api: Api, body: Any, **headers: str) -> None:
        async with api.client.stream("POST", PATH, json=body, headers=headers) as self.answer:
            if self.answer.headers["content-type"].startswith("text/event-stream"):
                async for line in self.answer.aiter_lines():
                    self.comments += line.startswith(":")
                    if line.startswith("data: "):
                        data = line.removeprefix("data: ")
                        self.events.append(data if data == "[DONE]" else json.loads(data))
            else:
                self.body = await self.answer.aread()
        self.ended = True

    async def end(self) -> None:
        assert self.task is not None
        await asyncio.wait_for(self.task, 20)


def ask(api: Api, model: str = "gpt", *, headers: dict[str, str] | None = None, **more: Any) -> Stream:
    stream = Stream()
    body = {"model": model, "messages": HELLO, "stream": True, **more}
    stream.task = asyncio.create_task(stream.read(api, body, **(headers or {})))
    return stream


@dataclass
class Speaker:
    """The hands of a worker that says an answer."""

    hands: Hands
    job: Taken
    at: int = 0

    async def say(self, text: str) -> bool:
        piece = text.encode()
        call = say(self.job.job_id, piece, process="hands", attempt=self.job.attempt, at=self.at, most_bytes=1_000_000)
        self.at += len(piece)
        kept: bool = await self.hands.call(call)
        return kept

    async def finish(self, text: str, **more: Any) -> None:
        output = {"message": {"role": "assistant", "content": text, **more}}
        await self.hands.finish(self.job, Outcome(State.SUCCEEDED, output=output, tokens=5))

    async def fail(self) -> None:
        await self.hands.finish(self.job, Outcome(State.FAILED, code="predict_error", message="it broke"))


async def speaker(hands: Hands) -> Speaker:
    return Speaker(hands, (await hands.take())[0])


async def listened(hands: Hands, job: Taken) -> None:
    await until(lambda: hands.client.hget(keys.JOB + job.job_id, "listeners"), "somebody listens")


async def test_an_answer_as_it_is_written(api: Api, hands: Hands) -> None:
    stream = ask(api, max_tokens=9)
    worker = await speaker(hands)
    assert worker.job.kwargs["input"] == {"messages": HELLO}
    assert worker.job.kwargs["parameters"] == {"max_tokens": 9, "stream": True}
    text = ""
    for piece in ("Grü", "ße", " aus", " 🙂"):
        assert await worker.say(piece)
        text += piece
        await until(lambda text=text: stream.text == text, "it is read")
    await worker.finish(text + "!")
    await stream.end()
    assert stream.answer is not None
    told = {name: stream.answer.headers[name] for name in ("cache-control", "x-accel-buffering", "ml-model")}
    assert told == {"cache-control": "no-store", "x-accel-buffering": "no", "ml-model": "gpt@1"}
    assert stream.answer.headers["location"] == f"/v1/jobs/{worker.job.job_id}"
    assert stream.deltas == [
        {"role": "assistant", "content": ""},
        *({"content": piece} for piece in ("Grü", "ße", " aus", " 🙂", "!")),
        {},
    ]
    *chunks, done = stream.events
    assert done == "[DONE]"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    heads = {(chunk["id"], chunk["object"], chunk["model"], "usage" in chunk) for chunk in chunks}
    assert heads == {(f"chatcmpl-{worker.job.job_id}", "chat.completion.chunk", "gpt", False)}
    assert len({chunk["created"] for chunk in chunks}) == 1


async def test_usage_and_tool_calls_come_at_the_end(api: Api, hands: Hands) -> None:
    stream = ask(api, stream_options={"include_usage": True})
    worker = await speaker(hands)
    calls = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    await worker.finish("", tool_calls=calls)
    await stream.end()
    assert stream.deltas == [{"role": "assistant", "content": ""}, {"tool_calls": [{"index": 0, **calls[0]}]}, {}]
    *chunks, usage, _ = stream.events
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}


async def test_a_model_that_does_not_stream_answers_in_one_piece(api: Api, hands: Hands) -> None:
    stream = ask(api, "llama", max_tokens=3)
    worker = await speaker(hands)
    assert worker.job.kwargs["parameters"] == {"max_new_tokens": 3}
    generated = [*HELLO, {"role": "assistant", "content": "Hi!"}]
    output = [{"generated_text": generated, "finish_reason": "length", "tokens": 3}]
    await hands.finish(worker.job, Outcome(State.SUCCEEDED, output=output))
    await stream.end()
    assert stream.deltas == [{"role": "assistant", "content": ""}, {"content": "Hi!"}, {}]
    assert stream.events[-2]["choices"][0]["finish_reason"] == "length"


async def test_a_handler_is_told_to_stream_if_it_can(api: Api, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.presence._SCHEMA_FRESH_S", 0.0)
    for parameters, given in (
        (None, {}),
        ({"properties": {"seed": {}}, "additionalProperties": False}, {}),
        ({"properties": {"stream": {"type": "boolean"}}}, {"stream": True}),
    ):
        if parameters is not None:
            told = orjson.dumps({"input_schema": {"type": "object"}, "parameters_schema": parameters})
            await hands.client.set(keys.SCHEMA + "own@1", told, ex=60)
        stream = ask(api, "own")
        worker = await speaker(hands)
        assert worker.job.kwargs["parameters"] == given
        await worker.say("Hi")
        await hands.finish(worker.job, Outcome(State.SUCCEEDED, output={"text": "Hi!"}))
        await stream.end()
        assert (stream.text, stream.events[-1]) == ("Hi!", "[DONE]")


async def test_what_fails_before_the_first_piece_has_its_status(api: Api, hands: Hands) -> None:
    stream = ask(api)
    worker = await speaker(hands)
    await listened(hands, worker.job)
    assert stream.status == 0, "nothing was sent yet"
    await worker.fail()
    await stream.end()
    told = json.loads(stream.body)["error"]
    assert (stream.status, told["code"], told["message"]) == (500, "predict_error", "it broke")
    assert stream.answer is not None
    assert stream.answer.headers["location"] == f"/v1/jobs/{worker.job.job_id}"
    assert stream.answer.headers["x-should-retry"] == "false"
    stream = ask(api, "own")
    await hands.finish((await hands.take())[0], Outcome(State.SUCCEEDED, output={"labels": []}))
    await stream.end()
    assert (stream.status, json.loads(stream.body)["error"]["param"]) == (400, "model")


async def test_what_fails_later_is_told_in_the_stream(api: Api, hands: Hands) -> None:
    stream = ask(api)
    worker = await speaker(hands)
    await worker.say("Hi")
    await until(lambda: stream.text == "Hi", "it is read")
    await worker.fail()
    await stream.end()
    assert (stream.status, stream.error["code"], stream.error["message"]) == (200, "predict_error", "it broke")
    assert "[DONE]" not in stream.events


async def test_an_answer_that_is_another_than_was_said(api: Api, hands: Hands) -> None:
    stream = ask(api)
    worker = await speaker(hands)
    await worker.say("Hi the")
    await until(lambda: stream.text == "Hi the", "it is read")
    await worker.finish("Hello there")
    await stream.end()
    assert (stream.text, stream.error["code"], stream.error["type"]) == ("Hi the", "answer_changed", "server_error")
    assert "[DONE]" not in stream.events


async def run_again(hands: Hands, worker: Speaker) -> Speaker:
    """Its worker goes, another one takes it up."""
    assert await hands.call(scripts.give_back([worker.job.job_id], process="hands"))
    again = await speaker(hands)
    assert (again.job.job_id, again.job.attempt) == (worker.job.job_id, worker.job.attempt + 1)
    assert not await worker.say("too late")
    return again


async def test_another_run_that_says_the_same_goes_on(api: Api, hands: Hands) -> None:
    stream = ask(api)
    worker = await speaker(hands)
    await worker.say("one two")
    await until(lambda: stream.text == "one two", "it is read")
    again = await run_again(hands, worker)
    await again.say("one")
    await again.say(" two three")
    await until(lambda: stream.text == "one two three", "it goes on")
    await again.finish("one two three four")
    await stream.end()
    assert (stream.text, stream.events[-1]) == ("one two three four", "[DONE]")


async def test_another_run_that_says_something_else_ends_the_stream_and_the_job(api: Api, hands: Hands) -> None:
    stream = ask(api)
    worker = await speaker(hands)
    await worker.say("one two")
    await until(lambda: stream.text == "one two", "it is read")
    again = await run_again(hands, worker)
    await again.say("one three")
    await stream.end()
    assert (stream.text, stream.error["code"]) == ("one two", "answer_changed")
    assert not await again.say(" four"), "nobody reads it"
    await again.finish("one three four")
    assert (await api.client.get(f"/v1/jobs/{again.job.job_id}")).json()["state"] == "canceled"


async def test_another_run_before_anything_was_sent_is_not_seen(api: Api, hands: Hands) -> None:
    stream = ask(api)
    again = await run_again(hands, await speaker(hands))
    await again.say("Hi")
    await until(lambda: stream.text == "Hi", "it is read")
    await again.finish("Hi")
    await stream.end()
    assert (stream.text, stream.events[-1]) == ("Hi", "[DONE]")


async def test_lost_news_are_seen_at_the_second_look(api: Api, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.waiter._CHECK_S", 0.1)
    async with serving(settings(api.parts.settings.redis_url, api.parts.settings.models_file.parent, MODELS)) as other:
        stream = ask(other)
        worker = await speaker(hands)
        await listened(hands, worker.job)
        await hands.client.hdel(keys.JOB + worker.job.job_id, "waiters", "listeners")
        await worker.say("Hi")
        await until(lambda: stream.text == "Hi", "it was seen")
        await hands.client.hdel(keys.JOB + worker.job.job_id, "waiters", "listeners")
        await worker.finish("Hi there")
        await stream.end()
        assert (stream.text, stream.events[-1]) == ("Hi there", "[DONE]")


async def test_a_restart_of_connections_loses_nothing(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "redis") as server:
        async with serving(settings(server.url, tmp_path, MODELS)) as api:
            hands = Hands.on(api.parts.settings)
            stream = ask(api)
            worker = await speaker(hands)
            await worker.say("one")
            await until(lambda: stream.text == "one", "it is read")
            await hands.client.client_kill_filter(skipme=True, _type="pubsub")
            await hands.client.client_kill_filter(skipme=True, _type="normal")
            await worker.say(" two")
            await until(lambda: stream.text == "one two", "it is read")
            await worker.finish("one two three")
            await stream.end()
            assert (stream.text, stream.events[-1]) == ("one two three", "[DONE]")
            await hands.client.aclose()


async def test_a_character_that_a_look_cuts(api: Api, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.said._MOST_BYTES", 3)
    stream = ask(api)
    worker = await speaker(hands)
    text = "aü🙂€" * 20
    await worker.say(text)
    await until(lambda: stream.text == text, "it is read")
    await worker.finish(text)
    await stream.end()
    assert (stream.text, stream.events[-1]) == (text, "[DONE]")


async def test_what_was_too_much_comes_with_the_end(api: Api, hands: Hands) -> None:
    stream = ask(api)
    worker = await speaker(hands)
    piece = "ab€".encode()
    args = {"process": "hands", "attempt": 1, "at": 0, "most_bytes": 4}
    assert not await hands.call(say(worker.job.job_id, piece, **args))  # type: ignore[arg-type]
    await until(lambda: stream.text == "ab", "what is whole of it")
    await worker.finish("ab€ and more")
    await stream.end()
    assert (stream.text, stream.events[-1]) == ("ab€ and more", "[DONE]")


async def test_silence_is_kept_alive_once_it_has_begun(api: Api, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.chat_stream.KEEP_ALIVE_S", 0.02)
    stream = ask(api)
    worker = await speaker(hands)
    await listened(hands, worker.job)
    await asyncio.sleep(0.1)
    assert (stream.status, stream.comments) == (0, 0)
    await worker.say("Hi")
    await until(lambda: stream.comments >= 3, "comments come")
    await worker.finish("Hi")
    await stream.end()
    assert (stream.text, stream.events[-1]) == ("Hi", "[DONE]")


@pytest.mark.parametrize("begun", [False, True])
async def test_the_time_is_over(api: Api, hands: Hands, begun: bool) -> None:
    stream = ask(api, headers={"x-stainless-read-timeout": "2"})
    worker = await speaker(hands)
    if begun:
        await worker.say("Hi")
    await stream.end()
    if begun:
        assert (stream.status, stream.text) == (200, "Hi")
        assert stream.error["code"] in ("wait_ended", "deadline_exceeded")
    else:
        assert stream.status == 504
        assert json.loads(stream.body)["error"]["code"] in ("wait_ended", "deadline_exceeded")


async def gone(api: Api, stream: Stream) -> None:
    assert stream.task is not None
    stream.task.cancel()
    await asyncio.gather(stream.task, return_exceptions=True)
    await until(lambda: not api.parts.waiter._following and not api.parts.waiter._futures, "it is forgotten")
    await until(lambda: not api.server.server_state.tasks, "and so is its request")


async def test_a_queued_job_of_a_caller_who_goes_is_canceled(api: Api, hands: Hands) -> None:
    stream = ask(api)
    await until(lambda: api.parts.waiter._following, "it is asked")
    (job_id,) = api.parts.waiter._following
    await until(lambda: hands.client.hget(keys.JOB + job_id, "listeners"), "somebody listens")
    await gone(api, stream)
    assert (await api.client.get(f"/v1/jobs/{job_id}")).json()["state"] == "canceled"


@pytest.mark.parametrize("begun", [False, True])
async def test_a_running_one_is_stopped(api: Api, hands: Hands, begun: bool) -> None:
    stream = ask(api)
    worker = await speaker(hands)
    await listened(hands, worker.job)
    if begun:
        await worker.say("Hi")
        await until(lambda: stream.text == "Hi", "it is read")
    await gone(api, stream)
    await until(lambda: hands.client.hget(keys.JOB + worker.job.job_id, "canceled"), "it is marked")
    assert not await worker.say(" there"), "which its worker is told"
    await worker.finish("Hi there")
    assert (await api.client.get(f"/v1/jobs/{worker.job.job_id}")).json()["state"] == "canceled"


async def test_one_that_somebody_else_wants_is_left_alone(api: Api, hands: Hands) -> None:
    stream = ask(api)
    worker = await speaker(hands)
    await worker.say("Hi")
    await until(lambda: stream.text == "Hi", "it is read")
    waiting = asyncio.create_task(api.client.get(f"/v1/jobs/{worker.job.job_id}", params={"wait": 20}))
    await until(lambda: len(api.parts.waiter._futures[worker.job.job_id]) == 2, "one more waits")
    assert stream.task is not None
    stream.task.cancel()
    await until(lambda: not api.parts.waiter._following, "it is forgotten")
    assert await worker.say(" there")
    await worker.finish("Hi there")
    assert (await waiting).json()["state"] == "succeeded"


async def test_a_drain_waits_for_the_answer_and_then_ends_it(redis_url: str, tmp_path: Path) -> None:
    async with serving(settings(redis_url, tmp_path, MODELS, drain_s=30)) as api:
        hands = Hands.on(api.parts.settings)
        stream = ask(api)
        worker = await speaker(hands)
        await worker.say("Hi")
        await until(lambda: stream.text == "Hi", "it is read")
        api.server.handle_exit(15, None)
        await until(lambda: api.parts.draining, "it drains")
        await worker.say(" there")
        await until(lambda: stream.text == "Hi there", "and yet goes on")
        api.parts.release()
        await stream.end()
        assert stream.error["code"] == "wait_ended"
        await hands.client.aclose()


async def test_who_does_not_read_holds_no_memory(api: Api, hands: Hands) -> None:
    body = orjson.dumps({"model": "gpt", "messages": HELLO, "stream": True})
    reader = socket.create_connection(("127.0.0.1", api.port))
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    await asyncio.to_thread(reader.sendall, head + body)
    worker = await speaker(hands)
    for _ in range(9):
        await worker.say("\x01" * 100_000)  # six bytes each on the wire, more than the kernel keeps for him
    await until(lambda: any(one.flow.write_paused for one in api.server.server_state.connections), "he is slow")
    (connection,) = [one for one in api.server.server_state.connections if one.flow.write_paused]
    assert connection.transport.get_write_buffer_size() < 1_000_000, "of 5.4 MB"
    reader.close()
    await until(lambda: hands.client.hget(keys.JOB + worker.job.job_id, "canceled"), "and his job is stopped")
    await worker.finish("")


async def test_forty_streams_at_once(api: Api, hands: Hands) -> None:
    streams = [ask(api) for _ in range(40)]
    workers = [Speaker(hands, job) for job in await hands.take(40)]
    words = [f"{n} " for n in range(10)]
    for word in words:
        await asyncio.gather(*(worker.say(word) for worker in workers))
    await asyncio.gather(*(worker.finish("".join(words)) for worker in workers))
    await asyncio.gather(*(stream.end() for stream in streams))
    assert {(stream.text, stream.events[-1]) for stream in streams} == {("".join(words), "[DONE]")}
    assert not api.parts.waiter._following
    assert not api.parts.waiter._futures
