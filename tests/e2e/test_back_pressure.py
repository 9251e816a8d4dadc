"""What is refused at the door, judged by how fast a real worker serves the queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from shared import keys
from tests.conftest import wait_until
from tests.processes import api, worker

MODELS = """
models:
  slow:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 1}
    limits: {queue: 60}
"""
STEP_S = 0.2  # a job


@pytest.fixture
def http(redis_url: str, models: Path) -> Iterator[httpx.Client]:
    with api(redis_url, models) as url, httpx.Client(base_url=url, timeout=60) as client, worker(redis_url, models):
        yield client


def submit(http: httpx.Client, **body: object) -> httpx.Response:
    return http.post("/v1/jobs", json={"model": "slow", "input": 1, "parameters": {"sleep_ms": STEP_S * 1000}} | body)


def served(store: redis.Redis) -> int:
    return int(store.hget(f"{keys.COUNTERS}slow@1", "succeeded") or 0)


@pytest.mark.long
def test_a_deadline_that_cannot_be_met_is_refused_and_retry_after_is_honest(
    http: httpx.Client, store: redis.Redis
) -> None:
    for _ in range(60):
        assert submit(http).status_code == 202
    wait_until(lambda: served(store) >= 8, what="the speed of the queue is measured")
    known = set(store.scan_iter(f"{keys.JOB}*"))
    late = submit(http, deadline_s=3)
    assert (late.status_code, late.json()["code"]) == (503, "deadline_exceeded")
    assert "x-should-retry" not in late.headers
    assert set(store.scan_iter(f"{keys.JOB}*")) <= known, "no job was made"
    waiting = http.post("/inference", json={"model_type": "slow", "data": 1, "deadline_s": 3})
    assert (waiting.status_code, waiting.json()["code"]) == (503, "deadline_exceeded")
    urgent = submit(http, deadline_s=3, priority="high")
    assert urgent.status_code == 202, "it goes before them"
    assert submit(http, deadline_s=60).status_code == 202
    # When it says, and not much earlier, the same job is accepted. (Those accepted meanwhile go before it.)
    told, refused_at = int(late.headers["retry-after"]), time.monotonic()
    wait_until(lambda: submit(http, deadline_s=3).status_code == 202, timeout_s=60)
    assert told / 2 - 1 <= time.monotonic() - refused_at <= told * 1.5 + 1
    patient = submit(http, deadline_s=60).json()["id"]
    assert http.get(f"/v1/jobs/{patient}", params={"wait": 20}).json()["timing"]["queue_ms"] < 2 * 3000, "about as said"
    assert http.get(f"/v1/jobs/{urgent.json()['id']}").json()["state"] == "succeeded"


def test_a_full_queue_says_how_long_what_waits_takes(http: httpx.Client, store: redis.Redis) -> None:
    for _ in range(60):
        assert submit(http).status_code == 202
    wait_until(lambda: served(store) >= 8, what="the speed of the queue is measured")
    refused = submit(http)
    while refused.status_code == 202:
        refused = submit(http)
    assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
    told = int(refused.headers["retry-after"])
    assert 60 * STEP_S * 0.8 <= told <= 60 * STEP_S * 3, "about as long as 60 jobs take"
