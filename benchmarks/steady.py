"""A closed loop that goes on for a time: what is answered in a stretch of it is counted, neither its start nor its end.

Keep-alive connections of the barest kind, spread evenly over the URLs (as a balancer in front of several API processes
spreads them): some 50 us of CPU a call, so that thousands a second leave the machine to the service.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import orjson

from benchmarks.client import head_of, loop_factory

_LAST_S = 60.0  # for the last answers


@dataclass(slots=True)
class Seen:
    """Of the stretch: each answer's instant (seconds from its begin), latency and body. `before` and `after` are what
    `look` gave at its edges."""

    wall_s: float = 0.0
    at_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    before: Any = None
    after: Any = None


def keep_asking(
    urls: Sequence[str],
    bodies: Sequence[Any],
    connections: int,
    *,
    warm_s: float,
    stretch_s: float,
    look: Callable[[], Any] = lambda: None,
) -> Seen:
    """POST the bodies (JSON data) over and over, each connection its next when the last is answered; count after
    `warm_s`, for `stretch_s`. Raises RuntimeError for any answer but 200, and where a connection is lost."""
    loop = _Loop(urls, bodies, connections)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(loop.run(warm_s, stretch_s, look))


class _Loop:
    def __init__(self, urls: Sequence[str], bodies: Sequence[Any], connections: int) -> None:
        self._places = [urlsplit(url) for url in urls]
        encoded = [orjson.dumps(body) for body in bodies]
        kind = {"Content-Type": "application/json"}
        self._requests: list[Iterator[bytes]] = [
            itertools.cycle([head_of(place.netloc, place.path, len(body), kind) + body for body in encoded])
            for place in self._places
        ]
        self._connections = connections
        self.seen, self.counts, self.goes_on = Seen(), False, True
        self.begun = 0.0

    async def run(self, warm_s: float, stretch_s: float, look: Callable[[], Any]) -> Seen:
        loop, callers = asyncio.get_running_loop(), []
        try:
            for number in range(self._connections):
                place, requests = (of[number % len(self._places)] for of in (self._places, self._requests))
                callers.append(caller := _Caller(self, requests, loop))
                await loop.create_connection(lambda made=caller: made, place.hostname, place.port)
            ends = asyncio.gather(*(caller.ended for caller in callers))
            await self._while_well(ends, warm_s)
            self.seen.before, self.begun, self.counts = look(), perf_counter(), True
            await self._while_well(ends, stretch_s)
            self.counts, self.seen.wall_s, self.seen.after = False, perf_counter() - self.begun, look()
            self.goes_on = False
            await asyncio.wait_for(ends, _LAST_S)
        finally:
            self.goes_on = False
            for caller in callers:
                caller.close()
            await asyncio.gather(*(caller.gone for caller in callers))
        return self.seen

    @staticmethod
    async def _while_well(ends: asyncio.Future[Any], seconds: float) -> None:
        """Raises what has ended a caller."""
        await asyncio.wait({ends}, timeout=seconds)
        if ends.done():
            ends.result()


class _Caller(asyncio.Protocol):
    """`ended`: it asks no more; `gone`: so is its connection."""

    def __init__(self, loop: _Loop, requests: Iterator[bytes], running: asyncio.AbstractEventLoop) -> None:
        self._loop, self._requests = loop, requests
        self.ended: asyncio.Future[None] = running.create_future()
        self.gone: asyncio.Future[None] = running.create_future()
        self._transport: Any = None
        self._got = b""
        self._asked_at = 0.0

    def close(self) -> None:
        if not self.ended.done():
            self.ended.cancel()
        if self._transport:
            self._transport.abort()
        else:
            self.gone.set_result(None)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        if head[9:12] != b"200":
            return self._end(RuntimeError(f"answered {self._got[:500]!r}"))
        loop, now = self._loop, perf_counter()
        if loop.counts:
            loop.seen.at_s.append(now - loop.begun)
            loop.seen.latencies_s.append(now - self._asked_at)
            loop.seen.bodies.append(body)
        self._got = b""
        if loop.goes_on:
            self._ask()
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(RuntimeError(f"a connection was lost: {exc}"))
        self.gone.set_result(None)

    def _ask(self) -> None:
        self._asked_at = perf_counter()
        self._transport.write(next(self._requests))

    def _end(self, why: Exception | None) -> None:
        if self.ended.done():
            return
        if why:
            self.ended.set_exception(why)
        else:
            self.ended.set_result(None)


def _length(head: bytes) -> int:
    before, _, after = head.lower().partition(b"content-length:")
    if not after:
        raise ValueError(f"an answer without a length: {before!r}")
    return int(after.split(b"\r\n", 1)[0])
