"""A backend's own Celery, with long tasks, on the same Redis database: neither disturbs the other.

Each side has a Redis user that may touch its own keys only, so a foot on the other's ground is an error there and
stands in `ACL LOG`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from celery import Celery

from local.embedded import EmbeddedServer
from shared import keys
from tests.conftest import wait_until
from tests.processes import REPOSITORY, api, environment, worker
from tests.stock_celery import stock_app, stock_worker

pytestmark = pytest.mark.long

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 4}
"""
BACKEND = """
import os, time
from celery import Celery

app = Celery("backend", broker=os.environ["STOCK_URL"], backend=os.environ["STOCK_URL"])
# A late ack keeps the message in `unacked` for as long as the task runs.
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)
if "SWEEPS" in os.environ:
    app.conf.broker_transport_options = {
        "visibility_timeout": 1, "unacked_restore_interval": 0.2, "unacked_restore_throttle": 1
    }


@app.task(name="backend.work")
def work(name, seconds):
    with open("runs", "a") as runs:
        print(name, file=runs, flush=True)
    time.sleep(seconds)
    return name * 2
"""
LEASE = {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5"}
SHARED = "~celery-task-meta-* ~_kombu.binding_deadlines &*"
OURS = f"{SHARED} ~ml* ~_kombu.binding*.ml* ~*.ml.pidbox*"
THEIRS = f"{SHARED} ~celery ~celery\x06\x16* ~celeryev* ~unacked* ~_kombu.binding*.celery* ~*.celery.pidbox*"


@dataclass
class House:
    """One Redis and who lives there."""

    store: redis.Redis
    ours: str
    theirs: str
    backend: Path
    models: Path

    def runs(self) -> Counter[str]:
        """How often each of their tasks has started."""
        file = self.backend.parent / "runs"
        return Counter(file.read_text().split()) if file.exists() else Counter()

    def runner(self, job_id: str) -> str:
        """The worker process that has a job of ours on its device."""
        return bytes(self.store.hget(keys.JOB + job_id, "runner") or b"").decode()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "backend.py").write_text(BACKEND)
    with EmbeddedServer(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as store:
        for user, rights in (("ours", OURS), ("theirs", THEIRS)):
            store.execute_command("ACL", "SETUSER", user, "on", f">{user}", "+@all", *rights.split(" "))
        ours, theirs = (server.url.replace("//", f"//{user}:{user}@") for user in ("ours", "theirs"))
        yield House(store, ours, theirs, tmp_path / "backend.py", tmp_path / "models.yaml")
        forever = [key.decode() for key in store.scan_iter(count=1000) if store.ttl(key) == -1]
        assert [(one["username"], one["reason"], one["object"]) for one in store.acl_log()] == []
        assert [key for key in forever if not keys.NO_TTL.match(key)] == []


def _inspect(app: str, folder: Path, env: dict[str, str]) -> set[str]:
    """The workers that `celery inspect ping` finds."""
    command = [sys.executable, "-m", "celery", "-A", app, "inspect", "ping", "--json", "-t", "1"]
    done = subprocess.run(
        command, cwd=folder, env=env | {"PYTHONWARNINGS": "ignore"}, stdout=subprocess.PIPE, check=True
    )
    return {name for name, answer in json.loads(done.stdout).items() if answer == {"ok": "pong"}}


def _submit(http: httpx.Client, count: int, sleep_ms: int) -> list[str]:
    body = {"model": "echo", "parameters": {"sleep_ms": sleep_ms}}
    return [http.post("/v1/jobs", json=body | {"input": n}).json()["id"] for n in range(count)]


def _ended(http: httpx.Client, ids: list[str]) -> list[dict[str, Any]]:
    return [http.get(f"/v1/jobs/{job_id}", params={"wait": 50}).json() for job_id in ids]


def test_the_walls_are_real(house: House) -> None:
    for url, key in ((house.ours, "unacked"), (house.theirs, keys.UNACKED), (house.theirs, "ml")):
        with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.NoPermissionError):
            client.exists(key)
    assert [found["object"] for found in house.store.acl_log()] == ["ml", "ml.unacked", "unacked"]
    house.store.acl_log_reset()


@pytest.mark.parametrize(
    "seconds", [6, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(400)])], ids=lambda n: f"{n}s"
)
def test_long_tasks_of_a_backends_own_celery(house: House, seconds: int) -> None:
    with ExitStack() as living:
        enter = living.enter_context
        http = enter(httpx.Client(base_url=enter(api(house.ours, house.models)), timeout=60))
        app = enter(stock_app(house.theirs))
        forking = enter(stock_worker(house.backend, house.theirs, "forking", "-P", "prefork", "-c", "2"))
        alone = enter(stock_worker(house.backend, house.theirs, "alone", "-P", "solo"))
        tasks = [app.send_task("backend.work", args=(f"long{n}", seconds)) for n in range(3)]
        wait_until(lambda: len(house.runs()) == 3, what="their tasks run")
        assert house.store.hlen("unacked") == 3, "in stock Celery's hands all the while"
        one = enter(worker(house.ours, house.models, "one", **LEASE))
        enter(worker(house.ours, house.models, "two", **LEASE))
        _our_worker_dies(house, http, one)
        assert [task.get(timeout=seconds + 60) for task in tasks] == ["long0long0", "long1long1", "long2long2"]
        assert house.runs() == {"long0": 1, "long1": 1, "long2": 1}
        wait_until(lambda: not house.store.exists("unacked"), what="acked")
        _each_sees_its_own(house)
        _their_workers_restart_and_sweep(house, http, app, forking, alone)


def _our_worker_dies(house: House, http: httpx.Client, one: subprocess.Popen[bytes]) -> None:
    """With work in hand: leases are renewed and its messages restored, beside their unacked ones."""
    ids = _submit(http, 40, sleep_ms=100)

    def stopped_with_a_batch() -> bool:
        one.send_signal(signal.SIGSTOP)
        if any(house.runner(job_id).startswith("one-") for job_id in ids):
            return True
        one.send_signal(signal.SIGCONT)
        return False

    wait_until(stopped_with_a_batch, what="it has a batch")
    one.send_signal(signal.SIGKILL)
    one.wait()
    jobs = _ended(http, ids)
    assert [job["output"] for job in jobs] == list(range(40))
    assert max(job["attempt"] for job in jobs) == 2, "what it held has run again"
    assert house.store.hlen(keys.UNACKED) == 0


def _each_sees_its_own(house: House) -> None:
    env = environment(house.ours, house.models, STOCK_URL=house.theirs)
    assert _inspect("worker.app", REPOSITORY, env) == {f"two@{os.uname().nodename}"}
    assert _inspect("backend", house.backend.parent, env) == {"forking@stock", "alone@stock"}


def _their_workers_restart_and_sweep(
    house: House,
    http: httpx.Client,
    app: Celery,
    forking: subprocess.Popen[bytes],
    alone: subprocess.Popen[bytes],
) -> None:
    """One stops, one is killed at work, and the next, told to restore what a second has not acked, does so, while
    ours hold messages for much longer than that."""
    forking.send_signal(signal.SIGTERM)
    assert forking.wait(30) == 0
    task = app.send_task("backend.work", args=("swept", 2))
    wait_until(lambda: house.runs()["swept"] == 1, what="it runs")
    alone.send_signal(signal.SIGKILL)
    alone.wait()
    ids = _submit(http, 4, sleep_ms=4000)
    wait_until(lambda: house.store.hlen(keys.UNACKED) == 4, what="ours are held")
    with stock_worker(house.backend, house.theirs, "again", "-P", "solo", SWEEPS="1"):
        assert task.get(timeout=40) == "sweptswept"
        assert house.runs()["swept"] == 2, "their sweep has restored it"
        jobs = _ended(http, ids)
    assert [(job["output"], job["attempt"]) for job in jobs] == [(n, 1) for n in range(4)]
