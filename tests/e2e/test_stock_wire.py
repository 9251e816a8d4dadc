"""The wire between ours and stock Celery, both ways: an upgrade of celery or kombu that changes it shows here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from celery import Celery

from shared import keys
from tests.conftest import wait_until
from tests.processes import api, worker
from tests.stock_celery import stock_app, stock_worker

pytestmark = pytest.mark.long  # more processes of other people's

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
"""
STOCK = """
import os
from celery import Celery

app = Celery("stock", broker=os.environ["STOCK_URL"], backend=os.environ["STOCK_URL"])


@app.task(name="ml.predict", bind=True)
def predict(self, model, version, input, parameters):
    priority = self.request.delivery_info["priority"]
    return {"ref": f"{model}@{version}", "input": input, "parameters": parameters, "priority": priority}
"""


@pytest.fixture
def producer(redis_url: str) -> Iterator[Celery]:
    with stock_app(redis_url) as app:
        yield app


def test_a_stock_worker_reads_what_our_api_wrote(
    redis_url: str, models: Path, tmp_path: Path, producer: Celery, store: redis.Redis
) -> None:
    (tmp_path / "stock_worker.py").write_text(STOCK)
    orders: list[dict[str, Any]] = [
        {
            "input": {"text": "hé", "empty": [], "none": None, "n": 2.5},
            "priority": "low",
            "parameters": {"sleep_ms": 1},
        },
        {"input": ["normal"]},
        {"input": "high", "priority": "high"},
    ]
    with api(redis_url, models) as url, httpx.Client(base_url=url) as http:
        ids = [http.post("/v1/jobs", json={"model": "echo"} | order).json()["id"] for order in orders]
        with stock_worker(tmp_path / "stock_worker.py", redis_url, "reader", "-P", "solo", "-Q", "ml.echo.1"):
            results = [producer.AsyncResult(job_id) for job_id in ids]
            answers = [result.get(timeout=30) for result in results]
            wait_until(lambda: not store.exists("unacked"), what="acked")
    assert [answer["input"] for answer in answers] == [order["input"] for order in orders]
    assert {answer["ref"] for answer in answers} == {"echo@1"}
    assert [answer["parameters"].get("sleep_ms") for answer in answers] == [1, None, None]
    assert [answer["priority"] for answer in answers] == [keys.LOW, keys.NORMAL, keys.HIGH]
    by_end = sorted(zip(results, ids, strict=True), key=lambda pair: pair[0].date_done)
    assert [job_id for _, job_id in by_end] == list(reversed(ids)), "high, normal, low, as kombu reads the lists"
    assert not list(store.scan_iter("*", _type="LIST")), "nothing is left in any list"


@pytest.mark.parametrize("steps", [None, [0, 3, 6], list(range(10))], ids=["stock steps", "our steps", "ten steps"])
def test_our_worker_reads_what_a_stock_producer_wrote(
    redis_url: str, models: Path, store: redis.Redis, steps: list[int] | None
) -> None:
    options = {"priority_steps": steps} if steps else {}
    priorities = [None, 9, 6, 3, 0, 1, 2, 5, 7]
    with stock_app(redis_url, broker_transport_options=options) as producer:
        results = [
            producer.send_task("ml.predict", kwargs={"model": "echo", "input": {"at": n}}, queue="ml", priority=n)
            for n in priorities
        ]
        with worker(redis_url, models):
            assert [result.get(timeout=20) for result in results] == [{"at": n} for n in priorities]
    told = [int(store.hget(keys.JOB + result.id, "priority") or -1) for result in results]
    assert told == [keys.nearest_priority(n or None) for n in priorities], "kombu writes 0 where none was given"
    assert not list(store.scan_iter("*", _type="LIST")), "nothing is left in any list"
