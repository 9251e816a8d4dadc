"""Plain Celery's `countdown` and `eta`: kept in Redis, by its clock, whatever becomes of workers and connections."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import TaskRevokedError

from shared import keys
from shared.queue import make_celery
from shared.settings import Settings
from tests.conftest import wait_until
from tests.processes import api, worker
from tests.stock_celery import stock_app

pytestmark = pytest.mark.long

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 1}
"""
QUICK = {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5"}


@pytest.fixture
def producer(redis_url: str) -> Iterator[Celery]:
    with stock_app(redis_url) as app:
        yield app


def _send(producer: Celery, value: Any, **options: Any) -> Any:
    return producer.send_task("ml.predict", kwargs={"model": "echo", "input": value}, queue="ml", **options)


def _waits(store: redis.Redis, job_id: str) -> bool:
    return store.hexists(keys.DELAYED, job_id) and not store.hexists(keys.UNACKED, job_id)


def test_it_starts_when_it_is_time_and_not_before(
    producer: Celery, redis_url: str, models: Path, store: redis.Redis
) -> None:
    """No API lives; the worker's connections are cut, and it is killed, while the jobs wait. They take no room."""
    with worker(redis_url, models, "one", **QUICK) as one:
        begun = store.time()[0] * 1000
        delayed = [_send(producer, n, countdown=6) for n in range(20)]
        wait_until(lambda: all(_waits(store, job.id) for job in delayed), what="they wait in Redis")
        assert _send(producer, "now").get(timeout=5) == "now", "others pass"
        store.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        store.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        one.send_signal(signal.SIGKILL)
        one.wait()
    with worker(redis_url, models, "two", **QUICK):
        assert [job.get(timeout=30) for job in delayed] == list(range(20))
    records = [store.hmget(keys.JOB + job.id, "started_at", "attempt") for job in delayed]
    assert min(int(started or 0) for started, _ in records) >= begun + 6000 - 1000  # `begun` is in whole seconds
    assert {attempt for _, attempt in records} == {b"1"}
    assert not store.exists(keys.DELAYED, keys.DUE, keys.UNACKED, keys.HOLDERS)
    counters = {name.decode(): int(n) for name, n in store.hgetall(f"{keys.COUNTERS}echo@1").items()}
    assert (counters["queued"], counters["delayed"], counters["succeeded"]) == (0, 0, 21)


def test_it_can_be_revoked_and_its_deadline_counts_from_its_start(
    producer: Celery, redis_url: str, models: Path, store: redis.Redis
) -> None:
    with (
        api(redis_url, models),
        worker(redis_url, models, ML_DEFAULT_DEADLINE_S="60", **QUICK),
        make_celery(Settings(redis_url=redis_url)) as control,
    ):
        start = datetime.now(UTC) + timedelta(hours=1)
        later, soon = _send(producer, 1, eta=start), _send(producer, 2, eta=start, expires=1)
        wait_until(lambda: _waits(store, later.id), what="it waits in Redis")
        due = int(store.hget(keys.JOB + later.id, "deadline_at") or 0) / 1000
        assert abs(due - start.timestamp() - 60) < 1
        with pytest.raises(TaskRevokedError, match="expired"):
            soon.get(timeout=20)
        control.control.revoke(later.id)
        with pytest.raises(TaskRevokedError):
            later.get(timeout=20)
        assert not store.exists(keys.DELAYED, keys.DUE)


def test_one_that_is_too_far_away_fails_at_once(producer: Celery, redis_url: str, models: Path) -> None:
    eta = datetime.now(UTC) + timedelta(days=4000)
    with worker(redis_url, models, **QUICK), pytest.raises(Exception, match="eta must be within 30 days"):
        _send(producer, 1, eta=eta).get(timeout=20)
