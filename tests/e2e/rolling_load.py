"""Constant load by real HTTP clients, each with a log of everything that it saw."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

_PAUSE_S = 0.1  # before a call is sent again
_TRIES = 100


@dataclass(frozen=True, slots=True)
class Try:
    """One request: `seen` is its status or the name of the error, `detail` what came with one that is no success."""

    began: float
    ended: float
    seen: int | str
    detail: str = ""


@dataclass
class Call:
    """One piece of work, sent again with the same key as long as it gets no answer. `job_id` and `output` are as the
    client was told."""

    key: str
    value: dict[str, int]
    tries: list[Try] = field(default_factory=list)
    job_id: str = ""
    output: Any = None


@dataclass
class Client:
    """A caller: `waits` by /inference, else queues a job and long-polls it. Between two calls it pauses `pause_s` at
    most. `keeps` its connection, or opens one for each request."""

    number: int
    url: str
    waits: bool
    pause_s: float = 0.03
    keeps: bool = True
    calls: list[Call] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Calls until told to stop; the last call is brought to its end."""
        rng = random.Random(self.number)
        limits = httpx.Limits(max_keepalive_connections=1 if self.keeps else 0)
        with httpx.Client(base_url=self.url, timeout=40, limits=limits, trust_env=False) as http:
            while not stop.wait(rng.random() * self.pause_s):
                n = len(self.calls)
                call = Call(f"{self.number}-{n}", {"client": self.number, "n": n})
                self.calls.append(call)
                (self._infer if self.waits else self._queue)(http, call, rng.randint(5, 50))

    def _infer(self, http: httpx.Client, call: Call, sleep_ms: int) -> None:
        body = {"model_type": "echo", "data": call.value, "parameters": {"sleep_ms": sleep_ms}}
        answer = self._send(http, call, "POST", "/inference", body)
        if answer is not None:
            call.job_id, call.output = answer["job_id"], answer["output"]

    def _queue(self, http: httpx.Client, call: Call, sleep_ms: int) -> None:
        body = {"model": "echo", "input": call.value, "parameters": {"sleep_ms": sleep_ms}}
        job = self._send(http, call, "POST", "/v1/jobs", body)
        while job is not None:
            call.job_id, call.output = job["id"], job["output"]
            if job["state"] not in ("queued", "running"):
                return
            job = self._send(http, call, "GET", f"/v1/jobs/{job['id']}?wait=20", None)

    def _send(self, http: httpx.Client, call: Call, method: str, path: str, body: Any) -> Any:
        """The answer's JSON; None for one that is neither success nor 503, and when it is tired of errors."""
        headers = {"Idempotency-Key": call.key} if body else {}
        for _ in range(_TRIES):
            began = time.monotonic()
            try:
                answer = http.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                call.tries.append(Try(began, time.monotonic(), type(error).__name__, str(error)))
            else:
                good = answer.status_code in (200, 202)
                call.tries.append(
                    Try(began, time.monotonic(), answer.status_code, "" if good else f"{call.key}: {answer.text}")
                )
                if good or answer.status_code != 503:
                    return answer.json() if good else None
            time.sleep(_PAUSE_S)
        return None


class Load:
    """Clients that run, each in a thread of its own."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(32)
        self._running: list[Future[None]] = []

    def add(self, *clients: Client) -> None:
        """They begin at once."""
        self.clients += clients
        self._running += [self._pool.submit(client.run, self._stop) for client in clients]

    def calls(self) -> list[Call]:
        """Of all clients, as of now."""
        return [call for client in self.clients for call in list(client.calls)]

    def tries(self, since: float = 0.0) -> list[Try]:
        """All requests that ended after `since`."""
        return [one for call in self.calls() for one in list(call.tries) if one.ended > since]

    def finish(self) -> None:
        """No new calls; returns when all have ended. Raises what a client has raised."""
        self._stop.set()
        self._pool.shutdown()
        for future in self._running:
            future.result()


@contextmanager
def load() -> Iterator[Load]:
    """Ends with its clients stopped."""
    running = Load()
    try:
        yield running
    finally:
        running.finish()
