"""Events, listing and outputs of jobs."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from conftest import Make
from misbehaving import Proxy

from ml_service_client import MLServiceError, PredictError, UnknownJob

SLOW = {"sleep_ms": 600}


def test_events(client: Any) -> None:
    job = client.submit("echo", 5, parameters=SLOW)
    events = list(client.events(job))
    assert [(one.id, one.type) for one in events if one.id] == [(1, "queued"), (2, "running"), (3, "succeeded")]
    assert events[-1].job.result() == 5
    assert [one.type for one in client.events(job.id) if one.id] == ["queued", "running", "succeeded"]


def test_events_of_a_job_that_fails(client: Any) -> None:
    job = client.submit("echo", 5, parameters={"fail": "told to"})
    *_, last = client.events(job)
    with pytest.raises(PredictError):
        last.job.result()


def test_nothing_is_told_twice_over_broken_connections(make: Make, url: str, proxy: Proxy) -> None:
    job = make(url).submit("echo", 5, parameters=SLOW)
    # Lines of a stream: `retry:` and an empty one, then four for each event.
    proxy.todo = ["refuse", 6, "cut", "pass"]
    events = list(make(proxy.url).events(job))
    assert [one.id for one in events if one.id] == [1, 2, 3]
    assert len(proxy.seen) >= 3
    assert b"last-event-id: 1" in proxy.seen[2].lower()


def test_events_of_nothing(client: Any) -> None:
    with pytest.raises(UnknownJob):
        list(client.events("c5f3edde-7d1b-4787-bb57-854dba8915dd"))


def test_events_give_up(make: Make, url: str, proxy: Proxy) -> None:
    job = make(url).submit("echo", 1)
    proxy.todo = ["refuse"] * 3
    with pytest.raises(httpx.TransportError):
        list(make(proxy.url, retries=2).events(job))


def test_jobs(client: Any) -> None:
    label = {"run": uuid.uuid4().hex}
    made = [client.wait(client.submit("echo", n, labels=label)).id for n in range(5)]
    other = client.wait(client.submit("narrow", 1, labels=label)).id
    found = list(client.jobs(labels=label, page=2))
    assert [job.id for job in found] == [other, *reversed(made)], "over pages, the newest first"
    assert all(job.output is None for job in found)
    assert [job.id for job in client.jobs(labels=label, model="narrow", state="succeeded")] == [other]
    assert list(client.jobs(labels=label, state=["queued", "running"])) == []
    with pytest.raises(MLServiceError):
        list(client.jobs(state="nonsense"))


@pytest.mark.parametrize("todo", ["lose", "cut"])
def test_a_lost_answer_is_one_job_in_the_list(make: Make, url: str, proxy: Proxy, todo: str) -> None:
    label = {"run": uuid.uuid4().hex}
    proxy.todo = [todo, todo, "pass"]
    job = make(proxy.url).submit("echo", 1, labels=label)
    assert [one.id for one in make(url).jobs(labels=label)] == [job.id]


def test_output(client: Any) -> None:
    job = client.submit("echo", {"a": [1, 2]}, parameters=SLOW)
    with pytest.raises(MLServiceError) as early:
        client.output(job)
    assert (early.value.code, early.value.job) == ("not_ended", job.id)
    client.wait(job)
    assert client.output(job.id) == {"a": [1, 2]}
    with pytest.raises(PredictError):
        client.output(client.wait(client.submit("echo", 1, parameters={"fail": "told to"})))
