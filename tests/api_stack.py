"""For tests of the API: a real API on a real socket, and the hands of a worker (the real scripts, no model)."""

from __future__ import annotations

import asyncio
import base64
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import redis
import redis.asyncio
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.deps import Services
from api.protocol import guarded
from api.server import Server
from shared import keys, scripts
from shared.catalog import load_catalog
from shared.outcomes import encode_outcome
from shared.settings import Settings
from shared.types import Outcome, State

MODELS = """
models:
  bert: {task: text-embedding, versions: {"1": {source: a}, "2": {source: b}}, traffic: {"1": 1}, aliases: {best: "2"}}
  cnn: {task: image-classification, versions: {"1": {source: "torchvision:x"}}}
  echo: {task: echo, versions: {"1": {}}}
  own: {handler: "own.py:Own", versions: {"1": {}}}
  tiny: {task: echo, versions: {"1": {}}, limits: {queue: 2, input_bytes: 100}}
"""


async def until(condition: Callable[[], object | Awaitable[object]], what: str = "", timeout_s: float = 20.0) -> None:
    """The only waiting in these tests: look again until it is true."""
    end = time.monotonic() + timeout_s
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.01)


@dataclass
class Api:
    """A running API: its parts to look into, and a client."""

    parts: Services
    client: httpx.AsyncClient
    port: int
    server: Server
    app: FastAPI


def settings(redis_url: str, folder: Path, models: str = MODELS, **more: Any) -> Settings:
    """Of one API in a test."""
    file = folder / "models.yaml"
    file.write_text(models)
    return Settings(**{"redis_url": redis_url, "models_file": file, "port": 0, **more})


@asynccontextmanager
async def serving(asked: Settings, *, sockets: list[socket.socket] | None = None) -> AsyncIterator[Api]:
    """The API in this event loop, through the same server class as `python -m api`, without its signal handlers.
    `sockets`: bound ones, instead of one of its own."""
    app = create_app(asked)
    config = uvicorn.Config(
        app, port=0, http=guarded(asked), ws="none", log_config=None, lifespan="on", access_log=False
    )
    server = Server(config, app.state.services)
    task = asyncio.create_task(server._serve(sockets))
    try:
        await until(lambda: server.started or task.done(), "the API has started")
        if task.done():
            task.result()
        port = server.servers[0].sockets[0].getsockname()[1]
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        base_url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base_url, timeout=30, limits=limits, trust_env=False) as client:
            yield Api(app.state.services, client, port, server, app)
    finally:
        server.should_exit = True
        app.state.services.release()
        await asyncio.gather(task, return_exceptions=True)


async def raw_call(port: int, path: str, body: Any, *headers: str) -> tuple[int, Any]:
    """POST on a connection of its own; status and JSON. (httpx's pool is quadratic in its connections.)"""
    content = orjson.dumps(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(content)}", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode() + content)
    head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split(b" ", 2)[1]), orjson.loads(answer)


def appear(store: redis.Redis, worker: str, *refs: str, state: str = "ready") -> None:
    """What a worker publishes of itself."""
    sign = {"process": f"p-{worker}", "worker": worker, "refs": refs, "state": "ready"}
    store.set(f"{keys.WORKER}p-{worker}", orjson.dumps(sign), ex=60)
    store.zadd(keys.WORKERS, {f"p-{worker}": 1})
    store.expire(keys.WORKERS, 60)
    for ref in refs:
        card: dict[str, Any] = {"worker": worker, "task": "custom", "state": state, "device": "cpu", "memory": {}}
        card |= dict(zip(("model", "version"), ref.split("@"), strict=True))
        card |= {"limits": {"max_batch_size": 8}, "failed_batches": 0, "calibration": {"max_cost": 512}}
        card |= {"input_schema": {"type": "object"}, "output_schema": {}, "parameters_schema": {}, "example": {"a": 1}}
        store.set(keys.card_key(ref, worker), orjson.dumps(card), ex=60)


@dataclass
class Taken:
    """A job in the hands of the worker."""

    job_id: str
    kwargs: dict[str, Any]
    payloads: list[str]
    stored: dict[int, str] = field(default_factory=dict)
    attempt: int = 0
    started_at: int = 0


@dataclass
class Hands:
    """A worker's hands: takes messages, claims and finishes jobs through the real scripts."""

    client: redis.asyncio.Redis
    lists: list[str]
    taken: list[Taken] = field(default_factory=list)

    @classmethod
    def on(cls, asked: Settings) -> Hands:
        """All lists of all versions."""
        queues = [keys.queue_name(ref.model, ref.version) for ref, _, _ in load_catalog(asked.models_file).refs()]
        lists = [keys.queue_list(queue, priority) for priority in keys.PRIORITIES for queue in queues]
        return cls(redis.asyncio.Redis.from_url(asked.redis_url), lists)

    async def call(self, call: scripts.Call[Any]) -> Any:
        """One script."""
        return scripts.one(await scripts.arun(self.client, [call]))

    async def take(self, count: int = 1) -> list[Taken]:
        """Wait for so many messages, and claim them."""
        fresh: list[Taken] = []

        async def enough() -> bool:
            drained = await self.call(
                scripts.drain(self.lists, [count - len(fresh)] * len(self.lists), process="hands")
            )
            for _, raw in drained.messages:
                message = orjson.loads(raw)
                kwargs = orjson.loads(base64.b64decode(message["body"]))[1]
                headers = message["headers"]
                stored = {int(number): ref for number, ref in headers.get("ml_stored", {}).items()}
                fresh.append(Taken(headers["id"], kwargs, headers.get("ml_payloads", []), stored))
            return len(fresh) >= count

        await until(enough, f"{count} messages")
        verdicts = await self.call(
            scripts.claim([one.job_id for one in fresh], process="hands", worker="hands", max_attempts=3)
        )
        for one, verdict in zip(fresh, verdicts, strict=True):
            one.attempt, one.started_at = verdict.attempt, verdict.started_at
        return fresh

    async def finish(self, job: Taken, outcome: Outcome | None = None) -> Any:
        """End a job: by default the input comes back."""
        return (await self.finish_all([job], outcome))[0]

    async def finish_all(self, jobs: list[Taken], outcome: Outcome | None = None) -> list[Any]:
        """End jobs in one round trip, as a worker does."""
        calls = []
        for job in jobs:
            ended = outcome or Outcome(State.SUCCEEDED, output=job.kwargs["input"], timing={"batch_size": len(jobs)})
            meta = encode_outcome(job.job_id, ended, attempt=job.attempt, started_at=job.started_at)
            calls.append(
                scripts.finish(
                    job.job_id, tag=job.job_id, state=ended.state, code=ended.code or "", meta=meta, ttl_ms=60_000
                )
            )
        return [scripts.one([reply]) for reply in await scripts.arun(self.client, calls)]

    async def payloads(self, job: Taken) -> list[bytes]:
        """What lies in the payload store for a job."""
        return [await self.client.get(keys.payload_key(job.job_id, n)) for n in range(len(job.payloads))]
