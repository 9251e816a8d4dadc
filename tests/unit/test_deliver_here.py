"""A batch that is brought to its end by the thread that ran it, or by the finish thread where that has to wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from shared import keys, scripts, tasks
from shared.catalog import Ref
from tests.conftest import wait_until
from tests.unit.test_finish import run_jobs
from worker.batcher import Budget
from worker.finisher import Finisher
from worker.handler import Prepared
from worker.handlers.echo import Echo
from worker.holdings import Holdings
from worker.report import Reporter
from worker.stalls import HostCalls
from worker.work import Item, Unit, Work


def unit_of(job_id: str, *, linked: bool = False) -> Unit:
    """Prepared, claimed, and run."""
    model: Any = SimpleNamespace(handler=Echo(), task=Echo.io, concurrency=0)
    work = Work(
        job_id, job_id, Ref("echo", "1"), keys.NORMAL, SimpleNamespace(_eventer=None, on_success=str), model=model
    )
    work.parts, work.items = tasks.split(Echo.io, 1), [Item(value=1, outputs=[None], missing=1)]
    work.open_items, work.claimed, work.attempt, work.linked = 1, True, 1, linked
    return Unit(work, 0, 0, Prepared(1), Budget(1, 1000))


class Flaky(redis.Redis):
    """Away as often as it is told."""

    away = 0
    threads: list[str]

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        """All scripts go this way."""
        self.threads.append(threading.current_thread().name)
        if self.away:
            self.away -= 1
            raise redis.ConnectionError("away")
        return super().pipeline(*args, **kwargs)


@pytest.fixture
def client(store: redis.Redis) -> Flaky:
    made = Flaky(connection_pool=store.connection_pool)
    made.threads = []
    return made


@pytest.fixture
def finisher(client: Flaky) -> Iterator[Finisher]:
    metrics: Any = SimpleNamespace(of=lambda _: SimpleNamespace(ended=lambda *_: None))
    nobody: Any = SimpleNamespace(changed=lambda _: None)
    made = Finisher(
        client,
        Holdings("p", lambda _: 8),
        Reporter(),
        metrics,
        nobody,
        calls=HostCalls(),
        worker="w",
        result_ttl_s=60,
        outputs=None,
        on_gone=lambda _: None,
    )
    made.start()
    yield made
    assert made.stop(10)


def state(store: redis.Redis, job_id: str) -> bytes | None:
    found: bytes | None = store.hget(keys.JOB + job_id, "state")
    return found


def test_the_calling_thread_writes_the_outcome(store: redis.Redis, client: Flaky, finisher: Finisher) -> None:
    run_jobs(store, "a")
    finisher.deliver([unit_of("a")], [1], 1.0, here=True)
    assert state(store, "a") == b"succeeded", "it stands when the call returns"
    assert {*client.threads} == {threading.current_thread().name}


def test_where_redis_is_away_the_finish_thread_waits_for_it(
    store: redis.Redis, client: Flaky, finisher: Finisher
) -> None:
    run_jobs(store, "a")
    client.away = 2
    finisher.deliver([unit_of("a")], [1], 1.0, here=True)
    assert state(store, "a") == b"running", "the device is not kept"
    wait_until(lambda: state(store, "a") == b"succeeded")
    assert client.threads[0] == threading.current_thread().name
    assert {*client.threads[1:]} == {"finish"}
    assert not client.away


def test_what_waits_before_it_goes_first(store: redis.Redis, client: Flaky, finisher: Finisher) -> None:
    run_jobs(store, "a", "b")
    client.away = 1
    finisher.deliver([unit_of("a")], [1], 1.0)
    wait_until(lambda: client.threads == ["finish"])
    finisher.deliver([unit_of("b")], [1], 1.0, here=True)
    assert state(store, "b") == b"running"
    finisher.flush(10)
    assert (state(store, "a"), state(store, "b")) == (b"succeeded", b"succeeded")
    assert {*client.threads} == {"finish"}


def test_what_is_linked_is_told_by_the_finish_thread(store: redis.Redis, client: Flaky, finisher: Finisher) -> None:
    """That may run a Celery canvas of any size."""
    run_jobs(store, "a")
    told: list[str] = []

    def end(work: Work, outcome: Any, write: Any) -> Any:
        told.append(threading.current_thread().name)
        return write()

    links: Any = SimpleNamespace(end=end)
    finisher.links = links
    finisher.deliver([unit_of("a", linked=True)], [1], 1.0, here=True)
    finisher.flush(10)
    assert told == ["finish"]
    assert scripts.one(scripts.run(store, [scripts.watch("a")])).record["state"] == "succeeded"
