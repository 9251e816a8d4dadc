"""Pause, purge and drain with real workers under load: no job starts that must not, and none is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from shared import keys
from tests.conftest import wait_until
from tests.processes import api, worker

pytestmark = pytest.mark.long

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 8}
  other:
    task: echo
    versions: {"1": {}}
"""
QUICK = {"ML_LEASE_S": "4", "ML_HEARTBEAT_S": "0.5"}


@pytest.fixture
def http(redis_url: str, models: Path) -> Iterator[httpx.Client]:
    """An API without a worker."""
    with api(redis_url, models) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


class Load:
    """Submits jobs of echo, one after the other, until it is stopped; the ids of those that were accepted."""

    def __init__(self, http: httpx.Client, *, sleep_ms: int) -> None:
        self.ids: list[str] = []
        self._http, self._sleep_ms = http, sleep_ms
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            body = {"model": "echo", "input": {"n": len(self.ids)}, "parameters": {"sleep_ms": self._sleep_ms}}
            answer = self._http.post("/v1/jobs", json=body)
            assert answer.status_code == 202
            self.ids.append(answer.json()["id"])


def _job(http: httpx.Client, job_id: str, wait_s: int = 0) -> dict[str, Any]:
    job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}", params={"wait": wait_s}).json()
    return job


def _counted(store: redis.Redis, name: str) -> int:
    return int(store.hget(f"{keys.COUNTERS}echo@1", name) or 0)


def test_pause_under_load(http: httpx.Client, redis_url: str, models: Path, store: redis.Redis) -> None:
    with (
        worker(redis_url, models, "one", **QUICK),
        worker(redis_url, models, "two", **QUICK),
        Load(http, sleep_ms=20) as load,
    ):
        wait_until(lambda: _counted(store, "succeeded") > 40, what="both are at work")
        paused = http.post("/v1/models/echo/pause")
        at = store.time()
        paused_ms = at[0] * 1000 + at[1] // 1000
        assert paused.json()["changed"] is True
        accepted = len(load.ids)
        wait_until(lambda: _counted(store, "running") == 0, what="what ran has ended")
        ended = _counted(store, "succeeded")
        wait_until(lambda: store.hlen(keys.UNACKED) == 0, what="what had not started was given back")
        wait_until(lambda: len(load.ids) > accepted + 50, what="callers still submit")
        beside = http.post("/inference", json={"model_type": "other", "data": 1})
        assert beside.json()["output"] == 1, "other models go on"
        assert _counted(store, "succeeded") == ended, "nothing started meanwhile"
        waiting = _job(http, load.ids[-1])
        assert (waiting["state"], waiting["waiting_for"]["code"]) == ("queued", "paused")
        started = [int(store.hget(keys.JOB + job_id, "started_at") or 0) for job_id in load.ids]
        assert max(started) <= paused_ms
        assert http.post("/v1/models/echo/resume").json()["changed"] is True
        wait_until(lambda: _counted(store, "succeeded") > ended, what="it goes on")
        load.__exit__()
        jobs = [_job(http, job_id, 30) for job_id in load.ids]
    assert [job["output"] for job in jobs] == [{"n": n} for n in range(len(jobs))]
    assert {job["attempt"] for job in jobs} == {1}
    assert _counted(store, "queued") == _counted(store, "running") == store.hlen(keys.UNACKED) == 0


def test_a_pause_outlives_workers_and_api(redis_url: str, models: Path, store: redis.Redis) -> None:
    with api(redis_url, models) as url:
        assert httpx.post(f"{url}/v1/models/echo/pause").status_code == 200
    with api(redis_url, models) as url, httpx.Client(base_url=url) as http, worker(redis_url, models, "w", **QUICK):
        job_id = http.post("/v1/jobs", json={"model": "echo", "input": 1}).json()["id"]
        late = http.post("/v1/jobs", json={"model": "echo", "input": 1, "deadline_s": 0.5}).json()["id"]
        assert _job(http, late, 20)["error"]["code"] == "deadline_exceeded", "deadlines hold"
        assert http.post("/inference", json={"model_type": "other", "data": 1}).status_code == 200
        assert _job(http, job_id)["waiting_for"]["code"] == "paused"
        http.post("/v1/models/echo/resume")
        assert _job(http, job_id, 20)["state"] == "succeeded"


def test_purge_under_load(http: httpx.Client, redis_url: str, models: Path, store: redis.Redis) -> None:
    with worker(redis_url, models, "one", **QUICK):
        with Load(http, sleep_ms=2000) as load:  # a batch of 16: slower than any machine submits
            wait_until(lambda: len(load.ids) > 100, what="a queue")
        canceled = http.post("/v1/models/echo/purge").json()["canceled"]
        jobs = [_job(http, job_id, 30) for job_id in load.ids]
        states = [job["state"] for job in jobs]
        assert set(states) == {"succeeded", "canceled"}
        assert states.count("canceled") == canceled > 16, "those in the worker's hands too"
        assert all(job["attempt"] == 0 for job in jobs if job["state"] == "canceled")
        wait_until(lambda: store.hlen(keys.UNACKED) == 0, what="the worker has dropped them")
        assert http.post("/inference", json={"model_type": "echo", "data": 1}).json()["output"] == 1


def test_drain_under_load(http: httpx.Client, redis_url: str, models: Path, store: redis.Redis) -> None:
    with worker(redis_url, models, "stays", **QUICK), Load(http, sleep_ms=100) as load:
        with worker(redis_url, models, "leaves", **QUICK) as leaving:
            wait_until(lambda: len(_workers(http)) == 2, what="both are told of")
            wait_until(lambda: _workers(http)["leaves"]["busy"] > 0.2, what="both are at work")
            told = _workers(http)["leaves"]
            assert (told["pid"], told["state"], told["device"]) == (leaving.pid, "ready", "cpu")
            assert told["memory_bytes"] > 10_000_000
            assert told["jobs_per_s"] > 0
            assert 1 <= told["batch_size"] <= 8
            assert {model["state"] for model in told["models"]} == {"ready"}
            answer = http.post("/v1/workers/leaves/drain")
            assert (answer.status_code, answer.json()) == (202, {"draining": [told["id"]]})
            assert leaving.wait(30) == 0
        wait_until(lambda: set(_workers(http)) == {"stays"}, what="it has left")
        again = http.post("/v1/workers/leaves/drain")
        assert (again.status_code, again.json()["code"]) == (404, "worker_not_found")
        load.__exit__()
        jobs = [_job(http, job_id, 30) for job_id in load.ids]
        assert [job["output"] for job in jobs] == [{"n": n} for n in range(len(jobs))]
        assert {job["attempt"] for job in jobs} == {1}, "nothing ran twice"
        with worker(redis_url, models, "leaves", **QUICK) as following:
            assert http.post("/inference", json={"model_type": "echo", "data": 1}).status_code == 200
            assert following.poll() is None, "the word was to another process"


def _workers(http: httpx.Client) -> dict[str, Any]:
    return {one["name"]: one for one in http.get("/v1/workers").json()["data"]}
