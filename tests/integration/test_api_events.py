"""`GET /v1/jobs/{id}/events` on a real server: what becomes of a job, as it comes, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys, scripts
from shared.api_keys import ApiKey, Scope, digest
from shared.scripts_jobs import progress
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings, until


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, drain_s=30)) as running:
        yield running


@dataclass(eq=False)
class Stream:
    """What has come of one stream: events as (id, name, job), and comments."""

    events: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    comments: int = 0
    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    ended: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def names(self) -> list[str]:
        return [name for _, name, _ in self.events]

    @property
    def progress(self) -> float | None:
        told = self.events[-1][2]["progress"]
        return told and told["fraction"]

    async def read(self, api: Api, job_id: str, **headers: str) -> None:
        async with api.client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
            self.status, self.headers = answer.status_code, answer.headers
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "data" in fields:
                    self.events.append((fields.pop("id", ""), fields.pop("event"), json.loads(fields.pop("data"))))
        self.ended = True

    async def read_raw(self, api: Api, job_id: str) -> None:
        """On a connection of its own. (httpx's pool is quadratic in its connections.)"""
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port, limit=1_000_000)
        writer.write(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        number = name = ""
        while line := (await reader.readline()).decode().strip():  # of the head
            self.status = self.status or int(line.split(" ")[1])
        while raw := await reader.readline():  # the sizes of chunks are none of the fields
            field, _, value = raw.decode().strip().partition(": ")
            if field == "id":
                number = value
            elif field == "event":
                name = value
            elif field == "data":
                self.events.append((number, name, json.loads(value)))
                number = ""
        writer.close()
        self.ended = True

    def __await__(self) -> Any:
        assert self.task is not None
        return self.task.__await__()


async def follow(api: Api, job_id: str, *, raw: bool = False, **headers: str) -> Stream:
    """A stream that has its first events."""
    stream = Stream()
    reading = stream.read_raw(api, job_id) if raw else stream.read(api, job_id, **headers)
    stream.task = asyncio.create_task(reading)
    await until(lambda: stream.status and (stream.events or stream.ended), "the first event")
    return stream


async def submit(api: Api, value: Any = 1) -> str:
    job_id: str = (await api.client.post("/v1/jobs", json={"model": "echo", "input": value})).json()["id"]
    return job_id


async def tell(hands: Hands, job_id: str, fraction: float, message: str | None = None) -> bool:
    told: bool = await hands.call(
        progress(job_id, orjson.dumps({"fraction": fraction, "message": message}), process="hands")
    )
    return told


async def test_a_job_from_its_queue_to_its_end(api: Api, hands: Hands) -> None:
    job_id = await submit(api, {"a": 1})
    stream = await follow(api, job_id)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert (stream.headers["cache-control"], stream.headers["x-accel-buffering"]) == ("no-store", "no")
    (taken,) = await hands.take()
    await until(lambda: len(stream.events) == 2, "it runs")
    assert await tell(hands, job_id, 0.25, "page 1 of 4")
    await until(lambda: len(stream.events) == 3, "its progress")
    assert await tell(hands, job_id, 0.5)
    await until(lambda: len(stream.events) == 4, "its further progress")
    await hands.finish(taken)
    await stream
    assert [(number, name) for number, name, _ in stream.events] == [
        ("1", "queued"),
        ("2", "running"),
        ("", "progress"),
        ("", "progress"),
        ("3", "succeeded"),
    ]
    jobs = [job for _, _, job in stream.events]
    assert [job["state"] for job in jobs] == ["queued", "running", "running", "running", "succeeded"]
    assert [job["progress"] and job["progress"]["fraction"] for job in jobs] == [None, None, 0.25, 0.5, 1.0]
    assert jobs[2]["progress"]["message"] == "page 1 of 4"
    assert jobs[2]["progress"]["at"] <= jobs[3]["progress"]["at"]
    assert jobs[-1] == (await api.client.get(f"/v1/jobs/{job_id}")).json()
    assert jobs[-1]["output"] == {"a": 1}


@pytest.mark.parametrize(
    ("last", "names"),
    [
        (None, ["queued", "running", "failed"]),
        ("0", ["queued", "running", "failed"]),
        ("1", ["running", "failed"]),
        ("2", ["failed"]),
        ("x", ["queued", "running", "failed"]),
        ("", ["queued", "running", "failed"]),
    ],
)
async def test_an_ended_job_is_told_as_it_was(api: Api, hands: Hands, last: str | None, names: list[str]) -> None:
    job_id = await submit(api)
    (taken,) = await hands.take()
    await tell(hands, job_id, 0.5)
    await hands.finish(taken, Outcome(State.FAILED, code="predict_error", message="it broke"))
    stream = await follow(api, job_id, **({} if last is None else {"Last-Event-ID": last}))
    await stream
    assert stream.names == names
    for _, name, job in stream.events:
        assert job["state"] == name
        assert (job["error"] is None, job["finished_at"] is None) == (name != "failed", name != "failed")
        assert (job["started_at"] is None, job["attempt"]) == ((True, 0) if name == "queued" else (False, 1))


async def test_who_has_the_end_is_told_not_to_come_again(api: Api, hands: Hands) -> None:
    job_id = await submit(api)
    await hands.finish((await hands.take())[0])
    answer = await api.client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "3"})
    assert (answer.status_code, answer.content) == (204, b"")


async def test_one_that_was_canceled_in_the_queue_never_ran(api: Api) -> None:
    job_id = await submit(api)
    stream = await follow(api, job_id)
    await api.client.delete(f"/v1/jobs/{job_id}")
    await stream
    assert stream.names == ["queued", "canceled"]


async def test_a_redelivery_does_not_go_back(api: Api, hands: Hands) -> None:
    job_id = await submit(api)
    stream = await follow(api, job_id)
    await hands.take()
    await until(lambda: len(stream.events) == 2, "it runs")
    await tell(hands, job_id, 0.9)
    await until(lambda: len(stream.events) == 3, "its progress")
    assert await hands.call(scripts.give_back([job_id], process="hands")) == [job_id]
    job = (await api.client.get(f"/v1/jobs/{job_id}")).json()
    assert (job["state"], job["progress"]) == ("queued", None), "its progress has gone with its run"
    assert not await tell(hands, job_id, 0.95), "who does not run it has nothing to tell"
    late = await follow(api, job_id)
    (taken,) = await hands.take()
    await until(lambda: len(late.events) == 2, "it runs again")
    await tell(hands, job_id, 0.1)
    await until(lambda: len(stream.events) == 4 and len(late.events) == 3, "progress of the second run")
    await hands.finish(taken)
    await asyncio.gather(stream, late)
    assert stream.names == ["queued", "running", "progress", "progress", "succeeded"]
    assert late.names == ["queued", "running", "progress", "succeeded"]
    assert late.events[0][2]["attempt"] == 1
    assert late.events[1][2]["attempt"] == 2


async def test_unknown_and_another_keys(redis_url: str, store: redis.Redis, tmp_path: Path) -> None:
    for name, scopes in (("a", {Scope.SUBMIT, Scope.READ}), ("b", {Scope.READ}), ("c", {Scope.SUBMIT})):
        key = ApiKey(id=f"key_{name}", name=name, scopes=frozenset(scopes))
        store.hset(keys.KEYS, digest(f"mls_{name}"), key.model_dump_json())
    async with serving(settings(redis_url, tmp_path, auth="on")) as api:
        a, b, c = [{"Authorization": f"Bearer mls_{name}"} for name in "abc"]
        job_id = (await api.client.post("/v1/jobs", json={"model": "echo", "input": 1}, headers=a)).json()["id"]
        for who, which, status in ((b, job_id, 404), (a, "no", 404), (c, job_id, 403), ({}, job_id, 401)):
            answer = await api.client.get(f"/v1/jobs/{which}/events", headers=who)
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
        assert not store.hexists(keys.JOB + job_id, "waiters") or store.hget(keys.JOB + job_id, "listeners")
        stream = await follow(api, job_id, **a)
        await api.client.delete(f"/v1/jobs/{job_id}", headers=a)
        await stream
        assert stream.names == ["queued", "canceled"]


async def test_two_hundred_streams_in_one_process(api: Api, hands: Hands) -> None:
    ids = [await submit(api, n) for n in range(40)]
    streams = await asyncio.gather(*(follow(api, ids[n % 40], raw=True) for n in range(200)))
    assert {stream.status for stream in streams} == {200}
    assert len(api.parts.waiter._following) == 40
    taken = await hands.take(40)
    await until(lambda: all(len(stream.events) == 2 for stream in streams), "all run")
    assert all([await tell(hands, job_id, 0.5) for job_id in ids])
    await until(lambda: all(len(stream.events) == 3 for stream in streams), "all know")
    await hands.finish_all(taken)
    await asyncio.gather(*streams)
    assert {tuple(stream.names) for stream in streams} == {("queued", "running", "progress", "succeeded")}
    assert [stream.events[-1][2]["output"] for stream in streams] == [n % 40 for n in range(200)]
    assert api.parts.waiter._following == {}


async def test_who_goes_leaves_nothing(api: Api, hands: Hands) -> None:
    job_id = await submit(api)
    await until(lambda: not api.server.server_state.tasks, "nothing runs")
    streams = [await follow(api, job_id) for _ in range(5)]
    assert len(api.parts.waiter._following[job_id]) == 5
    for stream in streams:
        assert stream.task is not None
        stream.task.cancel()
    await asyncio.gather(*(stream.task for stream in streams if stream.task), return_exceptions=True)
    await until(lambda: not api.parts.waiter._following, "they are forgotten")
    await until(lambda: not api.server.server_state.tasks, "and so are their requests")
    await hands.finish((await hands.take())[0])
    assert (await api.client.get(f"/v1/jobs/{job_id}")).json()["state"] == "succeeded", "a stream cancels nothing"


async def test_silence_is_kept_alive(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.events.KEEP_ALIVE_S", 0.02)
    job_id = await submit(api)
    stream = await follow(api, job_id)
    await until(lambda: stream.comments >= 3, "comments come")
    await api.client.delete(f"/v1/jobs/{job_id}")
    await stream
    assert stream.names == ["queued", "canceled"]


async def test_a_stream_is_closed_after_its_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next goes on where it was."""
    monkeypatch.setattr("api.events.KEEP_ALIVE_S", 0.02)
    monkeypatch.setattr("api.events.LONGEST_S", 0.1)
    job_id = await submit(api)
    stream = await follow(api, job_id)
    await stream
    assert stream.names == ["queued"]
    again = Stream()
    await again.read(api, job_id, **{"Last-Event-ID": "1"})
    assert (again.status, again.names, again.ended) == (200, [], True)


async def test_a_drain_ends_streams_and_holds_who_waits(api: Api, hands: Hands) -> None:
    job_id = await submit(api)
    stream = await follow(api, job_id)
    waiting = asyncio.create_task(api.client.get(f"/v1/jobs/{job_id}", params={"wait": 20}))
    await until(lambda: job_id in api.parts.waiter._futures, "one waits")
    api.server.handle_exit(15, None)
    await stream
    assert (stream.names, stream.ended) == (["queued"], True), "a clean end, without an event for it"
    assert not waiting.done()
    await hands.finish((await hands.take())[0])
    assert (await waiting).json()["state"] == "succeeded"


async def test_a_job_that_expires_ends_its_stream(api: Api, store: redis.Redis) -> None:
    job_id = await submit(api)
    stream = await follow(api, job_id)
    store.delete(keys.JOB + job_id)
    store.publish(api.parts.waiter.channel, f"{job_id}\n1\nrunning\n")
    await stream
    assert stream.names == ["queued"]


@pytest.fixture
async def hands_of() -> AsyncIterator[Any]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(api: Api) -> Hands:
            hands = Hands.on(api.parts.settings)
            stack.push_async_callback(hands.client.aclose)
            return hands

        yield make


@pytest.fixture
async def watchful(
    redis_url: str, tmp_path: Path, hands_of: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Api, Hands]]:
    """An API whose second look comes soon, and a worker's hands."""
    monkeypatch.setattr("api.waiter._CHECK_S", 0.1)
    async with serving(settings(redis_url, tmp_path)) as api:
        yield api, await hands_of(api)


async def test_lost_news_are_seen_at_the_second_look(watchful: tuple[Api, Hands]) -> None:
    api, hands = watchful
    job_id = await submit(api)
    stream = await follow(api, job_id)
    await hands.client.hdel(keys.JOB + job_id, "waiters", "listeners")
    (taken,) = await hands.take()
    await until(lambda: stream.names == ["queued", "running"], "it was seen to run")
    await hands.client.hdel(keys.JOB + job_id, "waiters", "listeners")
    await hands.finish(taken)
    await stream
    assert stream.names == ["queued", "running", "succeeded"]


async def test_who_waits_has_lost_news_at_the_second_look(watchful: tuple[Api, Hands]) -> None:
    api, hands = watchful
    job_id = await submit(api)
    waiting = asyncio.create_task(api.client.get(f"/v1/jobs/{job_id}", params={"wait": 20}))
    await until(lambda: job_id in api.parts.waiter._futures, "one waits")
    (taken,) = await hands.take()
    await hands.client.hdel(keys.JOB + job_id, "waiters", "listeners")
    await hands.finish(taken)
    assert (await waiting).json()["state"] == "succeeded"


async def test_a_restart_of_redis_loses_no_event(tmp_path: Path, hands_of: Any) -> None:
    with EmbeddedServer(tmp_path / "redis") as server:
        async with serving(settings(server.url, tmp_path)) as api:
            hands = await hands_of(api)
            job_id = await submit(api)
            stream = await follow(api, job_id)
            await hands.client.client_kill_filter(skipme=True, _type="pubsub")
            await hands.client.client_kill_filter(skipme=True, _type="normal")
            (taken,) = await hands.take()
            await until(lambda: stream.names == ["queued", "running"], "it was seen to run")
            await hands.finish(taken)
            await stream
            assert stream.names == ["queued", "running", "succeeded"]


async def test_who_does_not_read_holds_no_memory(api: Api, hands: Hands) -> None:
    """However much progress there is, one event waits for him."""
    job_id = await submit(api, "x" * 1000)
    reader = socket.create_connection(("127.0.0.1", api.port))
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.to_thread(reader.sendall, f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    (taken,) = await hands.take()
    await until(lambda: job_id in api.parts.waiter._following, "he follows")
    other = await follow(api, job_id)
    for n in range(40):
        await tell(hands, job_id, n / 40, "m" * 400_000)
        await until(lambda n=n: other.progress == pytest.approx(n / 40), "others read")
    (connection,) = [one for one in api.server.server_state.connections if one.flow.write_paused]
    assert connection.transport.get_write_buffer_size() < 1_000_000, "of 16 MB: what one event has"
    reader.close()
    await until(lambda: len(api.parts.waiter._following[job_id]) == 1, "and he is forgotten")
    await hands.finish(taken)
    await other


async def test_a_follower_is_an_interest(api: Api, hands: Hands) -> None:
    """Of a waiting caller who goes away the job stays, while somebody follows it."""
    calling = asyncio.create_task(api.client.post("/inference", json={"model_type": "echo", "data": 7}))
    await until(lambda: api.parts.waiter._futures, "it waits")
    (job_id,) = api.parts.waiter._futures
    stream = await follow(api, job_id)
    calling.cancel()
    await until(lambda: not api.parts.waiter._futures, "the caller has gone")
    await hands.finish((await hands.take())[0])
    await stream
    assert stream.names == ["queued", "running", "succeeded"]
