"""Redis goes, comes back, hangs, is full, cuts its clients off; work in hand goes on, and nothing runs twice for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys
from tests.conftest import wait_until
from tests.processes import api, worker

pytestmark = pytest.mark.long

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 4}
"""
LEASE_S = 2.0
QUICK = {"ML_LEASE_S": str(LEASE_S), "ML_HEARTBEAT_S": "0.5"}


class Stack:
    """A server of its own, an API, and workers that each hold a few slow jobs."""

    def __init__(self, folder: Path, on: ExitStack, *, workers: int = 2) -> None:
        models = folder / "models.yaml"
        models.write_text(MODELS)
        self.server = on.enter_context(EmbeddedServer(folder / "redis"))
        self.store = on.enter_context(redis.Redis.from_url(self.server.url))
        url = on.enter_context(api(self.server.url, models))
        self.http = on.enter_context(httpx.Client(base_url=url, timeout=60))
        self.processes = [
            on.enter_context(worker(self.server.url, models, f"w{n}", **QUICK)) for n in range(1, workers + 1)
        ]

    def submit(self, n: int, *, sleep_ms: int) -> list[str]:
        ids = []
        for index in range(n):
            body = {"model": "echo", "input": index, "parameters": {"sleep_ms": sleep_ms}}
            answer = self.http.post("/v1/jobs", json=body)
            assert answer.status_code == 202
            ids.append(answer.json()["id"])
        return ids

    def hold_all(self, n: int = 48, *, sleep_ms: int = 500) -> list[str]:
        """Jobs for a few seconds of all workers; both run some and hold more when this returns."""
        ids = self.submit(n, sleep_ms=sleep_ms)

        def busy() -> bool:
            runners = {self.store.hget(keys.JOB + job_id, "runner") for job_id in ids} - {None}
            return len(runners) == len(self.processes)

        wait_until(busy, what="every worker runs some")
        return ids

    def all_ended_once(self, ids: list[str]) -> None:
        """Each job has its own output, and was started once."""
        wait_until(self.ready, timeout_s=60, what="the API is ready again")
        jobs = [self._ended(job_id) for job_id in ids]
        assert [job["output"] for job in jobs] == list(range(len(ids)))
        assert {job["attempt"] for job in jobs} == {1}
        assert [process.poll() for process in self.processes] == [None] * len(self.processes)
        wait_until(lambda: self.store.hlen(keys.UNACKED) == 0, what="nothing is held")

    def _ended(self, job_id: str) -> dict[str, Any]:
        while True:
            job: dict[str, Any] = self.http.get(f"/v1/jobs/{job_id}", params={"wait": 20}).json()
            if job["state"] not in ("queued", "running"):
                return job

    def ready(self) -> bool:
        return self.http.get("/readyz").status_code == 200


@pytest.fixture
def on() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_killed_redis_comes_back_with_its_file(tmp_path: Path, on: ExitStack) -> None:
    stack = Stack(tmp_path, on)
    ids = stack.hold_all()
    stack.server.kill()
    assert stack.http.post("/v1/jobs", json={"model": "echo", "input": 1}).status_code == 503
    stack.server.start()
    stack.all_ended_once(ids)


def nothing_was_taken_away(capfd: pytest.CaptureFixture[str]) -> None:
    """By what the workers logged."""
    told = capfd.readouterr().err
    assert "worker_ready" in told
    assert "lease_lost" not in told
    assert "job_restored" not in told


def test_an_outage_longer_than_a_lease_makes_nothing_run_twice(
    tmp_path: Path, on: ExitStack, capfd: pytest.CaptureFixture[str]
) -> None:
    """No holder could renew. The first that is back must not take what the others hold."""
    stack = Stack(tmp_path, on)
    ids = stack.hold_all(sleep_ms=1500)
    stack.server.stop()
    gone = time.monotonic()
    wait_until(lambda: time.monotonic() - gone > 2 * LEASE_S, what="all leases have run out")
    stack.server.start()
    stack.all_ended_once(ids)
    nothing_was_taken_away(capfd)


def test_a_redis_that_hangs_longer_than_a_lease(
    tmp_path: Path, on: ExitStack, capfd: pytest.CaptureFixture[str]
) -> None:
    stack = Stack(tmp_path, on)
    ids = stack.hold_all(sleep_ms=1500)
    stack.store.execute_command("CLIENT", "PAUSE", int(2 * LEASE_S * 1000), "ALL")
    stack.all_ended_once(ids)
    nothing_was_taken_away(capfd)


def test_every_connection_is_cut_again_and_again(tmp_path: Path, on: ExitStack) -> None:
    stack = Stack(tmp_path, on)
    ids = stack.hold_all(60)
    for round_ in range(5):
        wait_until(lambda n=round_: _ended(stack, ids) >= 8 * (n + 1), what=f"work goes on after cut {round_}")
        for kind in ("pubsub", "normal"):
            # The API subscribes again a moment after the last cut, while work goes on already.
            wait_until(lambda k=kind: stack.store.execute_command("CLIENT", "KILL", "TYPE", k, "SKIPME", "yes"))
    stack.all_ended_once(ids)


def _ended(stack: Stack, ids: list[str]) -> int:
    return int(stack.store.exists(*[keys.OUTCOME + job_id for job_id in ids]))


def test_a_full_redis_refuses_new_work_and_finishes_old(
    tmp_path: Path, on: ExitStack, capfd: pytest.CaptureFixture[str]
) -> None:
    """Leases and signs of life pass too: a job longer than a lease is not taken from its worker."""
    stack = Stack(tmp_path, on)
    ids = stack.hold_all(24, sleep_ms=int(1.5 * LEASE_S * 1000))
    stack.store.config_set("maxmemory", "1mb")
    refused = stack.http.post("/v1/jobs", json={"model": "echo", "input": 1})
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert "full" in refused.json()["detail"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    wait_until(lambda: _ended(stack, ids) == len(ids), timeout_s=60, what="what was accepted ends")
    assert len(list(stack.store.scan_iter(f"{keys.WORKER}*"))) == len(stack.processes), "they give signs of life"
    stack.store.config_set("maxmemory", "0")
    stack.all_ended_once(ids)
    nothing_was_taken_away(capfd)
    assert stack.http.post("/v1/jobs", json={"model": "echo", "input": 1}).status_code == 202
    stack.all_ended_once(stack.submit(8, sleep_ms=10))


def test_a_lost_record_is_mended(tmp_path: Path, on: ExitStack) -> None:
    """A hand in the database: the model's counters, and so its limit, are right again when the deadline has passed."""
    stack = Stack(tmp_path, on, workers=0)
    ids = stack.submit(3, sleep_ms=1)
    stack.store.delete(keys.JOB + ids[0])
    stack.store.zadd(keys.DEADLINES, {ids[0]: 1})
    counters = keys.COUNTERS + "echo@1"
    wait_until(lambda: stack.store.hget(counters, "queued") == b"2", what="the sweep counts again")
    assert stack.store.hget(counters, "bytes") == b"2"
    for job_id in ids[1:]:
        stack.http.delete(f"/v1/jobs/{job_id}")
    assert stack.store.hget(counters, "bytes") == b"0"
