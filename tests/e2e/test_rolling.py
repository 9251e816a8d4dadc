"""Every part is restarted in turn under constant load, and no caller notices.

Two API processes share one port, two workers one queue. Judged by what the clients saw: a restart of an API or a worker
shows nothing at all; while Redis itself is away there is 503, and the same call again is the same job.
"""

from __future__ import annotations

import collections
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import redis

from local.embedded import EmbeddedServer
from local.ports import listen
from shared import keys
from tests.conftest import wait_until
from tests.e2e.rolling_load import Client, Load, Try, load
from tests.processes import api_process, worker

pytestmark = pytest.mark.long

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 8}
"""
GRACE_S = 10
KEEPERS = 10
# Long against SOON_S, so that what a worker leaves behind at its stop is seen; short against the 25 s of /inference:
# a message whose taker never got Redis's last answer waits for a lease.
LEASE_S = 10
SOON_S = 5
SETTINGS = {"ML_LEASE_S": str(LEASE_S), "ML_GRACE_S": str(GRACE_S), "ML_DRAIN_S": "10"}


@dataclass
class Parts:
    """What runs, by name, and how to start more of it."""

    server: EmbeddedServer
    listener: socket.socket
    models: Path
    folder: Path
    stack: ExitStack
    store: redis.Redis
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    logs: list[Path] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def start(self, name: str) -> None:
        """Ready when it returns."""
        if name.startswith("api"):
            self.logs.append(self.folder / f"{name}-{len(self.logs)}.log")
            begun = api_process(self.server.url, self.models, self.logs[-1], self.listener, **SETTINGS)
        else:
            begun = worker(self.server.url, self.models, name, **SETTINGS)
        self.running[name] = self.stack.enter_context(begun)

    def stop(self, name: str) -> None:
        """By SIGTERM; it must end by itself, cleanly, in its time."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(GRACE_S + 5) == 0

    def runs_something(self, name: str) -> bool:
        """Whether this worker has a job on its device now."""
        held = self.store.hkeys(keys.UNACKED)
        runners = [self.store.hget(keys.JOB + tag.decode(), "runner") or b"" for tag in held]
        return any(runner.startswith(f"{name}-".encode()) for runner in runners)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    models = tmp_path / "models.yaml"
    models.write_text(MODELS)
    with (
        EmbeddedServer(tmp_path / "redis") as server,
        redis.Redis.from_url(server.url) as store,
        listen("127.0.0.1", 0) as listener,
        ExitStack() as stack,
    ):
        yield Parts(server, listener, models, tmp_path, stack, store)


@dataclass
class Restarts:
    """How each went, for the one who reads the output."""

    load: Load
    outages: list[tuple[float, float]] = field(default_factory=list)

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Time it; the load must have gone on."""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        seen = collections.Counter(one.seen for one in self.load.tries(since=began))
        tell(f"{what:<9} {took:5.1f} s  {dict(seen)}")
        assert seen[200] > 0, "no load while it was restarted"


def test_a_rolling_restart_of_every_part(parts: Parts) -> None:
    parts.start("api-1")
    parts.start("worker-1")
    with load() as clients:
        restarts = Restarts(clients)
        clients.add(*(Client(n, parts.url, waits=n % 2 == 0) for n in range(KEEPERS)))  # all on api-1
        wait_until(lambda: all(client.calls and client.calls[0].tries for client in clients.clients))
        parts.start("api-2")
        parts.start("worker-2")
        clients.add(*(Client(n, parts.url, waits=n % 2 == 0, pause_s=4) for n in range(20, 24)))
        clients.add(*(Client(n, parts.url, waits=n % 2 == 0, keeps=False) for n in range(30, 32)))
        for name in ("api-1", "api-2"):
            with restarts.of(name):
                parts.stop(name)
                parts.start(name)
        for name in ("worker-1", "worker-2"):
            with restarts.of(name):
                restart_worker(parts, name)
        with restarts.of("redis"):
            restart_redis(parts, restarts)
    judge(parts, restarts)
    stops = [re.search(r"stopping +waiting=(\d+) connections=(\d+)", log.read_text()) for log in parts.logs]
    waiting, connections = zip(*((int(stop[1]), int(stop[2])) for stop in stops if stop), strict=True)
    tell(f"APIs stopped with {connections} connections, {waiting} jobs waited for")
    assert min(connections) >= KEEPERS
    assert sum(waiting) > 0


def test_sigterm_leaves_nothing_of_a_worker_held(parts: Parts) -> None:
    """With no other there, so that whatever is held would be its own."""
    for name in ("api-1", "worker-1", "worker-2"):
        parts.start(name)
    with load() as clients:
        restarts = Restarts(clients)
        clients.add(*(Client(n, parts.url, waits=n % 2 == 0) for n in range(KEEPERS)))
        wait_until(lambda: parts.runs_something("worker-1") and parts.runs_something("worker-2"))
        with restarts.of("workers"):
            parts.stop("worker-1")
            parts.stop("worker-2")
            assert parts.store.hlen(keys.UNACKED) == parts.store.zcard(keys.LEASES) == 0
            parts.start("worker-1")
            wait_until(lambda: parts.runs_something("worker-1"))
    judge(parts, restarts)


def restart_worker(parts: Parts, name: str) -> None:
    wait_until(lambda: parts.runs_something(name), what=f"{name} is under load")
    parts.stop(name)
    left = set(parts.store.hkeys(keys.UNACKED))
    # The other one's are finished soon; those of a worker that is gone would stay for a lease.
    wait_until(
        lambda: not left & set(parts.store.hkeys(keys.UNACKED)), timeout_s=SOON_S, what=f"nothing of {name}'s is left"
    )
    parts.start(name)


def restart_redis(parts: Parts, restarts: Restarts) -> None:
    down = time.monotonic()
    parts.server.stop()
    wait_until(lambda: httpx.get(f"{parts.url}/readyz").status_code == 503, what="the API has noticed")
    parts.server.start()
    back = time.monotonic()
    restarts.outages.append((down, back))
    wait_until(lambda: any(one.seen == 200 and one.began > back for one in restarts.load.tries()), what="it goes on")


def judge(parts: Parts, restarts: Restarts) -> None:
    """By the clients' log: what was sent got its own answer, once; nobody saw an error but while Redis was down."""
    calls, store = restarts.load.calls(), parts.store
    seen = collections.Counter(one.seen for one in restarts.load.tries())
    tell(f"{len(calls)} calls, {sum(seen.values())} requests: {dict(seen)}")
    bad = [one for one in restarts.load.tries() if one.seen not in (200, 202) and not excused(one, restarts.outages)]
    assert bad == []
    assert [call.output for call in calls] == [call.value for call in calls]
    assert len({call.job_id for call in calls}) == len(calls)

    wait_until(lambda: store.hlen(keys.UNACKED) == store.zcard(keys.LEASES) == 0, what="nothing is held")
    records = store.pipeline()
    for call in calls:
        records.hmget(keys.JOB + call.job_id, "state", "attempt")
    assert collections.Counter(map(tuple, records.execute())) == {(b"succeeded", b"1"): len(calls)}
    counted = {name.decode(): int(n) for name, n in store.hgetall(f"{keys.COUNTERS}echo@1").items() if int(n)}
    counters = {name: n for name, n in counted.items() if not name.startswith(("le:", "latency"))}
    assert counters == {"succeeded": len(calls)}, "one outcome a job, and no job that no client knows of"


def excused(one: Try, outages: list[tuple[float, float]]) -> bool:
    """A 503 to a request that was under way while Redis was down."""
    return one.seen == 503 and any(one.began < back and one.ended > down for down, back in outages)


def tell(text: str) -> None:
    print(text)  # noqa: T201 - the figures, for who runs it with -s
