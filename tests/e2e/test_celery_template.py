"""A backend that had a Celery worker of its own: its producers, chains, groups and chords change nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from celery import Celery, chain, chord, group

from shared import keys
from tests.conftest import wait_until
from tests.processes import REPOSITORY, api, worker
from tests.stock_celery import stock_app

MODELS = """
models:
  lengths:
    handler: tests/e2e/handlers.py:Lengths
    versions: {"1": {}}
    celery: {names: ["tasks.predict", "tasks.embed"], queue: "predict", args: ["text"], returns: "embedding"}
  echo:
    task: echo
    versions: {"1": {}}
    celery: {names: ["tasks.echo"], queue: "predict", args: ["a", "b"], parameters: ["sleep_ms", "fail"]}
"""
QUICK = {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5"}
# What the backend runs itself, on a stock worker: the rest of its chains.
OWN = """
import sys
from celery import Celery
app = Celery("backend", broker=sys.argv[1], backend=sys.argv[1])
app.conf.broker_transport_options = {{"visibility_timeout": 5}}
app.conf.task_routes = {{"tasks.echo": {{"queue": "predict"}}}}

@app.task(name="tasks.total")
def total(values):
    return sum(sum(value) if isinstance(value, list) else value for value in values)

@app.task(name="tasks.note")
def note(*args):
    with open({journal!r}, "a") as file:
        file.write(f"{{args!r}}\\n")

app.Worker(pool="solo", loglevel="WARNING", queues=["celery"], without_gossip=True, without_mingle=True,
           hostname="own@here").start()
"""

pytestmark = pytest.mark.long


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    return path


@pytest.fixture
def producer(redis_url: str) -> Iterator[Celery]:
    """As the backend has it: it knows its tasks' names and queue, and nothing of ours."""
    routes = {name: {"queue": "predict"} for name in ("tasks.predict", "tasks.embed", "tasks.echo")}
    with stock_app(redis_url, task_routes=routes) as app:
        yield app


@pytest.fixture
def own(redis_url: str, tmp_path: Path, store: redis.Redis) -> Iterator[Path]:
    """The backend's own worker; its journal."""
    journal = tmp_path / "journal"
    program = OWN.format(journal=str(journal))
    process = subprocess.Popen([sys.executable, "-c", program, redis_url], cwd=REPOSITORY)
    try:
        yield journal
    finally:
        process.terminate()
        process.wait(20)


def test_calls(producer: Celery, redis_url: str, models: Path, store: redis.Redis) -> None:
    with worker(redis_url, models, **QUICK):
        send = producer.send_task
        assert send("tasks.predict", args=["abc de"]).get(timeout=20) == [3.0, 2.0]
        assert send("tasks.embed", kwargs={"text": "abc"}).get(timeout=20) == [3.0]
        assert send("tasks.echo", args=[1], kwargs={"b": [2], "sleep_ms": 1}).get(timeout=20) == {"a": 1, "b": [2]}
        for wrong, told in (
            ({"args": [1, 2, 3]}, "up to 2 positional arguments"),
            ({"args": [1], "kwargs": {"a": 2}}, "got a twice"),
            ({"kwargs": {"fail": "on purpose"}}, "on purpose"),
        ):
            with pytest.raises(Exception, match=told):
                send("tasks.echo", **wrong).get(timeout=20)
        with pytest.raises(Exception, match=r"tasks\.other"):
            send("tasks.other", queue="predict").get(timeout=20)
        counters = store.hgetall(f"{keys.COUNTERS}lengths@1")
        assert int(counters[b"succeeded"]) == 2


def test_chains_groups_chords_and_callbacks(
    producer: Celery, own: Path, redis_url: str, models: Path, store: redis.Redis
) -> None:
    def echo(*args: Any, **kwargs: Any) -> Any:
        return producer.signature("tasks.echo", args=args, kwargs=kwargs)

    def embed(text: str) -> Any:
        return producer.signature("tasks.embed", args=(text,))

    total, note = producer.signature("tasks.total"), producer.signature("tasks.note")
    with worker(redis_url, models, **QUICK):
        assert chain(embed("abc"), echo(7)).apply_async().get(timeout=20) == {"a": [3.0], "b": 7}
        assert chain(embed("abc"), total).apply_async().get(timeout=20) == 3
        texts = ["a" * n for n in range(1, 31)]
        assert group(map(embed, texts)).apply_async().get(timeout=30) == [[float(n)] for n in range(1, 31)]
        assert chord(map(embed, texts), total).apply_async().get(timeout=30) == sum(range(1, 31))
        assert (group(embed("a"), embed("bb")) | total | echo()).apply_async().get(timeout=30) == {"a": 3}
        echo(1).apply_async(link=note).get(timeout=20)
        wait_until(lambda: own.exists() and "{'a': 1}" in own.read_text(), what="the callback")
        with pytest.raises(Exception, match="on purpose"):
            chain(echo(fail="on purpose"), note).apply_async().get(timeout=20)
        errback = producer.signature("tasks.note", args=("failed",), immutable=True)
        with pytest.raises(Exception, match="on purpose"):
            echo(fail="on purpose").apply_async(link_error=errback).get(timeout=20)
        wait_until(lambda: "('failed',)" in own.read_text(), what="the errback")
        with pytest.raises(Exception, match="on purpose"):
            chord([embed("a"), echo(fail="on purpose")], total).apply_async().get(timeout=30)
        with pytest.raises(Exception, match="up to 2"):
            chain(echo(1, 2, 3), note).apply_async().get(timeout=20)
    assert store.hlen(keys.UNACKED) == 0


def test_a_chord_whose_worker_is_killed(
    producer: Celery, own: Path, redis_url: str, models: Path, store: redis.Redis
) -> None:
    """Whenever that was: each part is counted once, the callback is called, nothing is left behind."""
    total = producer.signature("tasks.total")
    parts = [producer.signature("tasks.embed", args=("a" * n,)) for n in range(1, 201)]
    with worker(redis_url, models, "first", **QUICK) as first:
        result = chord(parts, total).apply_async()
        wait_until(lambda: int(store.hget(f"{keys.COUNTERS}lengths@1", "succeeded") or 0) > 40, what="some have ended")
        first.kill()
        first.wait()
    with worker(redis_url, models, "second", **QUICK):
        assert result.get(timeout=60) == sum(range(1, 201))
    wait_until(lambda: store.hlen(keys.UNACKED) == 0)


def test_over_http_too(producer: Celery, redis_url: str, models: Path, store: redis.Redis) -> None:
    with worker(redis_url, models, **QUICK), api(redis_url, models) as url:
        result = producer.send_task("tasks.embed", args=["abc"])
        value = result.get(timeout=20)
        answer = httpx.post(f"{url}/inference", json={"model_type": "lengths", "data": {"text": "abc"}}, timeout=30)
        assert answer.json()["output"] == {"embedding": value}
