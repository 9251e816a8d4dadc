"""Every part is restarted in turn under constant load, and every caller gets its output.

Two API processes share one port, two workers one queue. The clients are judged by what they saw: a restart of an API or
a worker shows nothing at all; while Redis itself is away there is 503, and the same call again is the same job.
"""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local.ports import listen
from local.server import EmbeddedServer
from shared import keys
from tests.conftest import wait_until
from tests.processes import API, REPOSITORY, WORKER, environment

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 8}
"""
CLIENTS = 6


@dataclass
class Seen:
    """What one client saw."""

    answers: list[tuple[int, Any]] = field(default_factory=list)  # its input, the output it got
    jobs: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)  # connection errors: nobody may see one


class Callers:
    """Clients with kept connections, each with one call after the other; half of them by `/inference`, half by
    `/v1/jobs` and a long-poll."""

    def __init__(self, url: str) -> None:
        self.seen = [Seen() for _ in range(CLIENTS)]
        self._url, self._stop = url, threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n, seen)) for n, seen in enumerate(self.seen)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def count(self) -> int:
        return sum(len(seen.answers) for seen in self.seen)

    def _call(self, client: int, seen: Seen) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as http:
            for number in itertools.count(client, CLIENTS):
                if self._stop.is_set():
                    return
                # Some with a pause between, so that idle connections meet a restart too.
                time.sleep((0, 0.01, 0.3)[number // CLIENTS % 3])
                try:
                    output = self._inference(http, number, seen) if client % 2 else self._job(http, number, seen)
                except httpx.TransportError as error:
                    seen.broken.append(f"{type(error).__name__}: {error}")
                    return
                seen.answers.append((number, output))

    def _inference(self, http: httpx.Client, number: int, seen: Seen) -> Any:
        body = {"model_type": "echo", "data": number, "parameters": {"sleep_ms": 20}}
        answer = self._again(http, "/inference", body, seen)
        seen.jobs.append(answer["job_id"])
        return answer["output"]

    def _job(self, http: httpx.Client, number: int, seen: Seen) -> Any:
        body = {"model": "echo", "input": number, "parameters": {"sleep_ms": 20}}
        job = self._again(http, "/v1/jobs", body, seen)
        seen.jobs.append(job["id"])
        while job["state"] in ("queued", "running"):
            answer = http.get(f"/v1/jobs/{job['id']}", params={"wait": 20})
            if answer.status_code == 503:
                seen.refused[answer.json()["code"]] += 1
                time.sleep(0.2)
                continue
            assert answer.status_code == 200
            job = answer.json()
        return job["output"]

    def _again(self, http: httpx.Client, path: str, body: dict[str, Any], seen: Seen) -> Any:
        """Until it is accepted; the key makes all of them one job."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        while True:
            answer = http.post(path, json=body, headers=headers)
            if answer.status_code < 300:
                return answer.json()
            seen.refused[answer.json()["code"]] += 1
            assert answer.status_code in (503, 504), answer.text
            time.sleep(0.2)


class Parts:
    """The processes, each of which can be replaced by a new one: started before the old one is told to stop."""

    def __init__(self, redis_url: str, models: Path, listener: socket.socket, on: ExitStack) -> None:
        self._redis_url, self._models, self._listener, self._on = redis_url, models, listener, on
        self._names = itertools.count(1)
        self.store = on.enter_context(redis.Redis.from_url(redis_url))
        self.apis = [self._api() for _ in range(2)]
        self.workers = [self._worker() for _ in range(2)]

    def replace_api(self, index: int) -> None:
        """Returns when the old one has drained."""
        old, self.apis[index] = self.apis[index], self._api()
        _stop(old)

    def replace_worker(self, index: int) -> None:
        """Returns when the old one has drained."""
        old, self.workers[index] = self.workers[index], self._worker()
        _stop(old)

    def _api(self) -> subprocess.Popen[bytes]:
        fd = self._listener.fileno()
        env = environment(self._redis_url, self._models, ML_LISTEN_FD=str(fd), ML_DRAIN_S="10", ML_LOG_LEVEL="ERROR")
        return self._on.enter_context(_process(API, env, pass_fds=(fd,)))

    def _worker(self) -> subprocess.Popen[bytes]:
        name = f"w{next(self._names)}"
        env = environment(self._redis_url, self._models, ML_WORKER_NAME=name, ML_LOG_LEVEL="ERROR")
        process = self._on.enter_context(_process(WORKER, env))
        wait_until(
            lambda: any(self.store.scan_iter(f"{keys.WORKER}{name}-*")) or process.poll() is not None,
            what=f"{name} is ready",
        )
        assert process.poll() is None
        return process


@contextmanager
def _process(command: tuple[str, ...], env: dict[str, str], **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=env, cwd=REPOSITORY, **more)
    try:
        yield process
    finally:
        if process.poll() is None:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, "a clean end"


@pytest.fixture
def on() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_rolling_restart_of_every_part(tmp_path: Path, on: ExitStack) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(MODELS)
    server = on.enter_context(EmbeddedServer(tmp_path / "redis"))
    listener = on.enter_context(closing(listen("127.0.0.1", 0)))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    parts = Parts(server.url, models, listener, on)
    wait_until(lambda: httpx.get(f"{url}/readyz", timeout=20).status_code == 200)
    with Callers(url) as callers:

        def some_more() -> None:
            before = callers.count()
            wait_until(lambda: callers.count() >= before + 100, timeout_s=60, what="the load goes on")

        for index in range(2):
            some_more()
            parts.replace_api(index)
            some_more()
            parts.replace_worker(index)
        assert sum((seen.refused for seen in callers.seen), Counter[str]()) == {}, "nobody was refused"
        some_more()
        server.stop()
        server.start()
        some_more()
        parts.replace_api(0)
        some_more()
    assert [seen.broken for seen in callers.seen] == [[]] * CLIENTS
    refused = sum((seen.refused for seen in callers.seen), Counter[str]())
    assert set(refused) <= {"store_unavailable"}, "only while Redis was away"
    answers = [answer for seen in callers.seen for answer in seen.answers]
    assert all(number == output for number, output in answers), "each its own output"
    ids = [job_id for seen in callers.seen for job_id in seen.jobs]
    assert len(set(ids)) == len(ids) == len(answers)
    records = [parts.store.hmget(keys.JOB + job_id, "state", "attempt") for job_id in ids]
    assert {tuple(record) for record in records} == {(b"succeeded", b"1")}, "nothing ran twice"
    assert parts.store.hlen(keys.UNACKED) == 0


def test_sigterm_leaves_nothing_of_a_worker_held(tmp_path: Path, on: ExitStack) -> None:
    """Under load, with its sibling gone: what it held is back in the queue before it exits."""
    models = tmp_path / "models.yaml"
    models.write_text(MODELS)
    server = on.enter_context(EmbeddedServer(tmp_path / "redis"))
    listener = on.enter_context(closing(listen("127.0.0.1", 0)))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    parts = Parts(server.url, models, listener, on)
    with Callers(url) as callers:
        wait_until(lambda: callers.count() >= 50, what="the load runs")
        for old in parts.workers:
            _stop(old)
        assert parts.store.hlen(keys.UNACKED) == parts.store.zcard(keys.LEASES) == 0
        parts.workers = [parts._worker()]
        before = callers.count()
        wait_until(lambda: callers.count() >= before + 50, what="the load goes on")
    assert [seen.broken for seen in callers.seen] == [[]] * CLIENTS
