"""An open loop: requests at moments that were chosen before, whether or not the earlier ones are answered.

A latency counts from the chosen moment, so a service that falls behind is not spared.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import orjson

from benchmarks.client import Answers, exchange, head_of, loop_factory

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def poisson(count: int, rate: float, seed: int) -> list[float]:
    """Seconds from the start, `rate` a second on average, each gap independent of all others."""
    choose, at, moments = random.Random(seed), 0.0, []
    for _ in range(count):
        at += choose.expovariate(rate)
        moments.append(at)
    return moments


def arrive(
    url: str, bodies: Sequence[Any], moments: Sequence[float], fields: Mapping[str, str] | None = None
) -> Answers:
    """POST each body (JSON data) at its moment, on a connection that is free, or a new one."""
    place = urlsplit(url)
    requests = []
    for body in map(orjson.dumps, bodies):
        told = {"Content-Type": "application/json", **(fields or {})}
        requests.append(head_of(place.netloc, place.path, len(body), told) + body)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_arrive(place.hostname or "", place.port or 80, requests, moments))


async def _arrive(host: str, port: int, requests: list[bytes], moments: Sequence[float]) -> Answers:
    count = len(requests)
    answers = Answers(latencies_s=[0.0] * count, statuses=[0] * count, bodies=[b""] * count)
    free: list[Stream] = []

    async def one(number: int) -> None:
        await asyncio.sleep(max(0.0, begun + moments[number] - perf_counter()))
        stream = free.pop() if free else await asyncio.open_connection(host, port)
        answers.statuses[number], answers.bodies[number] = await exchange(*stream, requests[number])
        answers.latencies_s[number] = perf_counter() - begun - moments[number]
        free.append(stream)

    begun = perf_counter()
    await asyncio.gather(*map(one, range(count)))
    answers.wall_s = perf_counter() - begun
    for _, writer in free:
        writer.close()
    return answers
