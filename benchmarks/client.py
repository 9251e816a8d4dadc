"""A closed loop of raw HTTP/1.1 keep-alive connections: little CPU, so that the server's is what is measured.

Requests are built before and answers read after the clock runs.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson


@dataclass(slots=True)
class Answers:
    """In the order of the requests. `at_s`: when each was answered, since the begin."""

    wall_s: float = 0.0
    at_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Of a closed loop: requests a second, and their latencies."""

    rate: float
    latencies_s: list[float]


T = TypeVar("T")


def around(requests: Sequence[T], connections: int) -> list[T]:
    """These, and before them so many of their last and behind them so many of their first: for `full_load`."""
    cycle = itertools.cycle(requests)
    first = itertools.islice(cycle, -connections % len(requests), None)
    return list(itertools.islice(first, len(requests) + 2 * connections))


def full_load(answers: Answers, connections: int) -> Stretch:
    """While every connection has a request under way, of what `around` has made of so many: neither a stack that fills
    nor one that runs dry is counted. As many answers in a row as there were requests are as much work, whichever they
    begin with; their time is the mean over that, since a batch answers many at once."""
    came = sorted(zip(answers.at_s, answers.latencies_s, strict=True))
    count = len(came) - 2 * connections
    wall_s = sum(came[first + count][0] - came[first][0] for first in range(connections)) / connections
    return Stretch(count / wall_s, [latency_s for _, latency_s in came[connections:-connections]])


def ask(url: str, bodies: Sequence[Any], connections: int) -> Answers:
    """POST every body (JSON data) to `url`, each of `connections` sending its next when the last is answered."""
    place = urlsplit(url)
    return _run(url, [_request(place.netloc, place.path, orjson.dumps(body)) for body in bodies], connections)


def send(url: str, bodies: Sequence[bytes], connections: int, kind: str) -> Answers:
    """POST every body as it is, of content type `kind`, to `url` with its query, in the same way."""
    place = urlsplit(url)
    path = f"{place.path}?{place.query}" if place.query else place.path
    return _run(url, [_request(place.netloc, path, body, kind) for body in bodies], connections)


def read(url: str, paths: Sequence[str], connections: int) -> Answers:
    """GET every path of `url`, in the same way."""
    host = urlsplit(url).netloc
    return _run(url, [f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() for path in paths], connections)


def _run(url: str, requests: list[bytes], connections: int) -> Answers:
    place = urlsplit(url)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_ask(place.hostname or "", place.port or 80, requests, connections))


async def _ask(host: str, port: int, requests: list[bytes], connections: int) -> Answers:
    count = len(requests)
    answers = Answers(0.0, [0.0] * count, [0.0] * count, [0] * count, [b""] * count)
    streams = [await asyncio.open_connection(host, port) for _ in range(min(connections, count))]
    numbers = iter(range(count))

    async def loop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in numbers:
            asked_s = perf_counter() - begun
            answers.statuses[number], answers.bodies[number] = await exchange(reader, writer, requests[number])
            answers.at_s[number] = perf_counter() - begun
            answers.latencies_s[number] = answers.at_s[number] - asked_s

    begun = perf_counter()
    await asyncio.gather(*(loop(*stream) for stream in streams))
    answers.wall_s = perf_counter() - begun
    for _, writer in streams:
        writer.close()
    return answers


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    """The status and the body of the answer to one request."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head[9:12]), await reader.readexactly(_length(head))


def _request(host: str, path: str, body: bytes, kind: str = "application/json") -> bytes:
    return head_of(host, path, len(body), {"Content-Type": kind}) + body


def head_of(host: str, path: str, length: int, fields: Mapping[str, str]) -> bytes:
    """Of a POST with a body of `length` bytes; the body follows."""
    told = "".join(f"\r\n{name}: {value}" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\nHost: {host}{told}\r\nContent-Length: {length}\r\n\r\n".encode()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"an answer without a length: {head!r}")


def loop_factory() -> Any:
    """uvloop's, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
