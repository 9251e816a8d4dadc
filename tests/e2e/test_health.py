"""A worker that is stuck is seen and replaced, and what it held is done by others. One that only waits for Redis is
neither."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.embedded import EmbeddedServer
from shared import health
from tests.conftest import wait_until
from tests.e2e.test_local import running
from tests.processes import REPOSITORY, api, worker
from worker.vital import EXIT_SOFTWARE

pytestmark = pytest.mark.long

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 4}
  moody:
    handler: tests/e2e/handlers.py:Moody
    versions: {"1": {}}
    limits: {timeout_s: 600}
  impatient:
    handler: tests/e2e/handlers.py:Moody
    versions: {"1": {}}
    limits: {timeout_s: 2}
"""
QUICK = {"ML_LEASE_S": "4", "ML_HEARTBEAT_S": "0.5"}  # red after 3 s


@pytest.fixture
def http(redis_url: str, models: Path) -> Iterator[httpx.Client]:
    with api(redis_url, models) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def checked(file: Path, *options: str) -> int:
    """As Docker does it."""
    command = [sys.executable, "-m", "worker", "healthcheck", *options]
    return subprocess.run(
        command, env=os.environ | {"ML_HEALTH_FILE": str(file)}, cwd=REPOSITORY, check=False
    ).returncode


def replaced(process: subprocess.Popen[bytes], file: Path) -> None:
    wait_until(lambda: checked(file, "--replace") == 1, what="red")
    assert process.wait(10) == -signal.SIGKILL
    assert checked(file) == 1, "nobody is there"


def test_a_stopped_worker_is_red_and_replaced(http: httpx.Client, redis_url: str, models: Path, tmp_path: Path) -> None:
    file = tmp_path / "first.alive"
    with worker(redis_url, models, "first", ML_HEALTH_FILE=str(file), **QUICK) as first:
        wait_until(lambda: checked(file) == 0, what="green")
        ids = [
            http.post("/v1/jobs", json={"model": "echo", "input": n, "parameters": {"sleep_ms": 300}}).json()["id"]
            for n in range(12)
        ]
        wait_until(lambda: http.get(f"/v1/jobs/{ids[0]}").json()["state"] != "queued")
        first.send_signal(signal.SIGSTOP)
        seen = health.read(file)
        replaced(first, file)
        stopped = health.read(file)
        assert seen is not None
        assert stopped is not None
        assert time.monotonic() - stopped.at >= stopped.limit_s == 3.0, "not before its limit"
        with worker(redis_url, models, "second", **QUICK):
            jobs = [http.get(f"/v1/jobs/{job_id}", params={"wait": 40}).json() for job_id in ids]
    assert [job["output"] for job in jobs] == list(range(12))


def test_frozen_native_code_stops_the_watchdog_too(
    http: httpx.Client, redis_url: str, models: Path, tmp_path: Path
) -> None:
    """No thread of the process runs any more: only another process can see that."""
    file = tmp_path / "w.alive"
    with worker(redis_url, models, "w", ML_HEALTH_FILE=str(file), **QUICK) as process:
        wait_until(lambda: checked(file) == 0, what="green")
        http.post("/v1/jobs", json={"model": "moody", "input": {"do": "freeze"}})
        replaced(process, file)


def test_redis_away_is_no_reason(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "w.alive"
    with (
        EmbeddedServer(tmp_path / "redis") as server,
        worker(server.url, models, "w", ML_HEALTH_FILE=str(file), **QUICK) as process,
    ):
        wait_until(lambda: checked(file) == 0, what="green")
        os.kill(server.pid, signal.SIGSTOP)  # it takes connections and says nothing
        gone_at = time.monotonic()
        while time.monotonic() < gone_at + 2 * health.SHORTEST_S:
            assert checked(file, "--replace") == 0
        assert process.poll() is None
        os.kill(server.pid, signal.SIGCONT)


@pytest.mark.slow
def test_the_watchdog_does_not_wait_for_redis_for_ever(models: Path, tmp_path: Path) -> None:
    """A predict hangs, and Redis too: the process ends by itself all the same."""
    with (
        EmbeddedServer(tmp_path / "redis") as server,
        api(server.url, models) as url,
        worker(server.url, models, "w", **QUICK) as process,
    ):
        job = httpx.post(f"{url}/v1/jobs", json={"model": "impatient", "input": {"do": "hang"}}).json()
        wait_until(lambda: httpx.get(f"{url}/v1/jobs/{job['id']}").json()["state"] == "running")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert process.wait(60) == EXIT_SOFTWARE
        finally:
            os.kill(server.pid, signal.SIGCONT)


def test_up_replaces_its_own(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "2", **QUICK) as up:
        job_ids = [up.submit(n, parameters={"sleep_ms": 200}) for n in range(8)]
        stopped = up.pid("worker-1")
        os.kill(stopped, signal.SIGSTOP)
        assert [up.job(job_id, wait_s=40)["output"] for job_id in job_ids] == list(range(8))
        up.until(lambda: "worker-1 shows no life any more: killing it" in up.words)
        up.until(lambda: up.pid("worker-1") not in (0, stopped))
        assert "worker-2 died" not in up.words
