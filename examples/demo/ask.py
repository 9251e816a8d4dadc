"""The three ways of asking: wait, poll, and many at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import httpx

from examples.demo.stack import DemoFailed

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    """`took_ms`: from call to answer, as the caller saw it; `timing`: what the service says of it."""

    output: dict[str, Any]
    timing: dict[str, Any]
    took_ms: float


async def wait(client: httpx.AsyncClient, model: str, data: dict[str, Any]) -> Answer:
    """`POST /inference`: one call, the answer in its response."""
    began = time.perf_counter()
    body = _checked(await client.post("/inference", json={"model_type": model, "data": data}), 200)
    return Answer(body["output"], body["timing"], _since(began))


async def poll(client: httpx.AsyncClient, model: str, data: dict[str, Any]) -> Answer:
    """`POST /v1/jobs`, then `GET` the job's URL until it has ended."""
    began = time.perf_counter()
    accepted = await client.post("/v1/jobs", json={"model": model, "input": data})
    _checked(accepted, 202)
    while True:
        job = _checked(await client.get(accepted.headers["Location"]), 200)
        if job["state"] == "succeeded":
            return Answer(job["output"], job["timing"], _since(began))
        if job["state"] not in ("queued", "running"):
            raise DemoFailed(f"job {job['id']} {job['state']}: {job['error']}")
        await asyncio.sleep(POLL_S)


async def at_once(client: httpx.AsyncClient, texts: list[str]) -> tuple[list[Answer], float]:
    """All texts in as many calls at the same time; and how long all took together, in seconds."""
    began = time.perf_counter()
    answers = await asyncio.gather(*(wait(client, "bert", {"text": text}) for text in texts))
    return answers, time.perf_counter() - began


def _checked(response: httpx.Response, wanted: int) -> dict[str, Any]:
    if response.status_code != wanted:
        raise DemoFailed(f"{response.request.method} {response.url}: {response.status_code} {response.text[:500]}")
    return response.json()


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
