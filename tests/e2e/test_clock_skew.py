"""Hosts whose clocks are hours apart: what decides anything is in Redis TIME. The clocks are really wrong, by a library
that is preloaded into the processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis
from celery import Celery
from celery.exceptions import TaskRevokedError

from shared import keys
from tests.conftest import wait_until
from tests.preload import library
from tests.processes import api, worker
from tests.stock_celery import stock_app

pytestmark = pytest.mark.long

MODEL = """
  {name}:
    task: echo
    versions: {{"1": {{}}}}
    batch: {{max_size: 1}}
"""
HOUR_S = 3600
LONG = {"sleep_ms": 5000}
ORDERS: dict[str, dict[str, Any]] = {  # in this order: a worker runs one at a time, and each outlives the lease
    "cut short": {"parameters": {"sleep_ms": 4000}, "deadline_s": 1.5},
    "long": {"parameters": LONG},
    "longer": {"parameters": LONG, "deadline_s": 60},
    "too late": {"parameters": LONG, "deadline_s": 5},
    "in time": {"deadline_s": 60},
}
QUICK = {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5"}


def _models(folder: Path, *names: str) -> Path:
    path = folder / f"{'-'.join(names)}.yaml"
    path.write_text("models:" + "".join(MODEL.format(name=name) for name in names))
    return path


@pytest.fixture
def producer(redis_url: str) -> Iterator[Celery]:
    with stock_app(redis_url) as app:
        yield app


def _shifted(hours: int) -> dict[str, str]:
    return QUICK | {"LD_PRELOAD": str(library("shift_clock")), "CLOCK_SHIFT_S": str(hours * HOUR_S)}


def _hours_ahead(at: float) -> int:
    return round((at - time.time()) / HOUR_S)


def _workers_hours_ahead(store: redis.Redis) -> dict[str, int]:
    """By what the workers themselves say is the time."""
    signs = [orjson.loads(store.get(key) or b"{}") for key in store.scan_iter(f"{keys.WORKER}*")]
    return {sign["worker"]: _hours_ahead(sign["started_at"]) for sign in signs}


def _redis_ms(store: redis.Redis) -> int:
    seconds, microseconds = store.time()
    return int(seconds * 1000 + microseconds // 1000)


def _ms(told: str) -> float:
    return datetime.fromisoformat(told).timestamp() * 1000


def test_leases_deadlines_and_times_are_redis_time(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    """The API is two hours ahead, one worker an hour ahead, the other an hour behind; each serves a model."""
    with (
        api(redis_url, models := _models(tmp_path, "ahead", "behind"), **_shifted(2)) as url,
        worker(redis_url, models, "ahead", ML_MODELS="ahead", **_shifted(1)),
        worker(redis_url, models, "behind", ML_MODELS="behind", **_shifted(-1)),
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        assert _workers_hours_ahead(store) == {"ahead": 1, "behind": -1}
        assert _hours_ahead(parsedate_to_datetime(http.get("/livez").headers["Date"]).timestamp()) == 2
        begun = _redis_ms(store)
        ids = {kind: _submit(http, **order) for kind, order in ORDERS.items()}
        wait_until(lambda: store.hlen(keys.UNACKED) == 4, what="each worker runs one and holds one")

        def ended() -> bool:
            """Looks at the leases while it waits."""
            scores = [score for _, score in store.zrange(keys.LEASES, 0, -1, withscores=True)]
            assert all(abs(_redis_ms(store) - score) < HOUR_S * 100 for score in scores)
            return all(store.hget(keys.JOB + job_id, "finished_at") for pair in ids.values() for job_id in pair)

        wait_until(ended, timeout_s=60, what="all end")
        over = _redis_ms(store)
        jobs = {kind: [http.get(f"/v1/jobs/{job_id}").json() for job_id in pair] for kind, pair in ids.items()}

    for kind in ("long", "longer", "in time"):
        assert [(job["state"], job["attempt"], job["timing"]["worker"]) for job in jobs[kind]] == [
            ("succeeded", 1, "ahead"),
            ("succeeded", 1, "behind"),
        ], kind
    for job in [*jobs["cut short"], *jobs["too late"]]:
        assert job["error"]["code"] == "deadline_exceeded"
        assert 0 <= _ms(job["finished_at"]) - _ms(job["deadline_at"]) < HOUR_S * 100
    for job in jobs["cut short"]:
        assert _ms(job["finished_at"]) - _ms(job["started_at"]) < 4000, "its predict was still running"
    for job in (job for pair in jobs.values() for job in pair):
        assert begun <= _ms(job["created_at"]) <= _ms(job["finished_at"]) <= over


def _submit(http: httpx.Client, **order: Any) -> list[str]:
    """One to each model."""
    bodies = [{"model": model, "input": 1} | order for model in ("ahead", "behind")]
    return [http.post("/v1/jobs", json=body).json()["id"] for body in bodies]


def test_a_celery_job_that_has_not_expired_runs(
    redis_url: str, tmp_path: Path, store: redis.Redis, producer: Celery
) -> None:
    """On a worker whose clock says that it expired an hour ago."""
    with worker(redis_url, _models(tmp_path, "echo"), "ahead", **_shifted(1)):
        assert _workers_hours_ahead(store) == {"ahead": 1}
        result = producer.send_task("ml.predict", kwargs={"model": "echo", "input": 1}, queue="ml", expires=30)
        assert result.get(timeout=20) == 1


def test_a_celery_job_that_has_expired_does_not(
    redis_url: str, tmp_path: Path, store: redis.Redis, producer: Celery
) -> None:
    """Not even on a worker whose clock says that it has an hour left."""
    result = producer.send_task("ml.predict", kwargs={"model": "echo", "input": 1}, queue="ml", expires=1)
    sent = _redis_ms(store)
    wait_until(lambda: _redis_ms(store) > sent + 1000, what="it has expired")
    with worker(redis_url, _models(tmp_path, "echo"), "behind", **_shifted(-1)):
        assert _workers_hours_ahead(store) == {"behind": -1}
        with pytest.raises(TaskRevokedError):
            result.get(timeout=20)
