"""Calls of more than one request: the core alone, answered by the test."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from ml_service_client import Job, UnexpectedAnswer, WaitEnded
from ml_service_client.core import batches, bodies, calls
from ml_service_client.core.retries import Policy
from ml_service_client.core.steps import Call, Request, Sleep
from ml_service_client.types import Json

POLICY = Policy(0, dice=lambda: 0.0)
JOB: Json = {"id": "j1", "model": "m", "version": "1", "state": "queued"}
DONE = JOB | {"state": "succeeded", "output": 7}


class World:
    """Answers requests in order; each takes so many seconds of its clock."""

    def __init__(self, *bodies: Any, seconds: float = 0.0) -> None:
        self.left, self.seconds = list(bodies), seconds
        self.clock = 0.0
        self.asked: list[Request] = []
        self.slept: list[float] = []

    def now(self) -> float:
        return self.clock

    def run(self, call: Call[Any]) -> Any:
        try:
            step = next(call)
            while True:
                if isinstance(step, Sleep):
                    self.slept.append(step.seconds)
                    self.clock += step.seconds
                    step = call.send(None)
                else:
                    self.asked.append(step)
                    self.clock += self.seconds
                    request = httpx.Request(step.method, f"http://h{step.path}")
                    step = call.send(httpx.Response(200, json=self.left.pop(0), request=request))
        except StopIteration as end:
            assert not self.left
            return end.value


def test_waits_in_long_polls() -> None:
    world = World(JOB, JOB, DONE, seconds=25)
    assert world.run(calls.wait(POLICY, "j1", None, world.now)).output == 7
    assert [one.params["wait"] for one in world.asked] == ["25", "25", "25"]
    assert all(one.held_s == 25 for one in world.asked), "the connection's timeout is longer by as much"
    assert world.slept == []


def test_does_not_hammer_a_service_that_does_not_hold() -> None:
    world = World(JOB, JOB, JOB, DONE, seconds=0.01)
    world.run(calls.wait(POLICY, "j1", None, world.now))
    assert world.slept == [1.0, 1.0, 1.0]


def test_the_last_poll_is_as_long_as_there_is_time() -> None:
    world = World(JOB, JOB, seconds=25)
    with pytest.raises(WaitEnded) as caught:
        world.run(calls.wait(POLICY, "j1", 30.0, world.now))
    assert [one.params["wait"] for one in world.asked] == ["25", "5"]
    assert caught.value.job == "j1"
    once = World(JOB, seconds=0.0)
    with pytest.raises(WaitEnded):
        once.run(calls.wait(POLICY, "j1", 0.0, once.now))
    assert [one.params["wait"] for one in once.asked] == ["0"]


def test_an_output_that_lies_elsewhere_is_fetched_from_the_service() -> None:
    large = DONE | {"output": None, "output_url": "https://bucket.example/x?signature=1"}
    world = World(large, [1, 2, 3])
    job = world.run(calls.wait(POLICY, "j1", None, world.now))
    assert job.result() == [1, 2, 3]
    assert world.asked[1].path == "/v1/jobs/j1/output"
    with pytest.raises(ValueError, match="fetches it"):
        Job.of(large).result()


def test_an_output_that_is_null() -> None:
    world = World(DONE | {"output": None})
    assert world.run(calls.wait(POLICY, "j1", None, world.now)).result() is None


def test_a_batchs_envelope_is_the_query() -> None:
    raw = {"id": "batch_1", "model": "m", "version": "1", "state": "queued", "counts": {"total": 2}}
    world = World(raw)
    options = {"labels": {"a": "b"}, "parameters": {"x": 1}, "webhook": "https://h/"}
    options |= {"deadline_s": 60, "priority": "low"}
    made = world.run(batches.batch(POLICY, "m", bodies.lines([1, {"t": "é"}]), options))
    (request,) = world.asked
    assert request.params == {
        "model": "m",
        "labels": '{"a":"b"}',
        "parameters": '{"x":1}',
        "webhook": '"https://h/"',
        "deadline_s": "60",
        "priority": "low",
    }
    assert not isinstance(request.content, bytes | None)
    assert b"".join(request.content.chunks()) == '1\n{"t":"é"}\n'.encode()
    assert made.counts.total == 2


@pytest.mark.parametrize("answer", [[], "text", 7])
def test_json_that_is_no_object(answer: Any) -> None:
    with pytest.raises(UnexpectedAnswer):
        World(answer).run(calls.get(POLICY, "j1"))


def test_labels_and_states_of_a_listing() -> None:
    assert calls.job_filters(["queued", "running"], "bert", {"a": "b", "c": "d"}, 20) == {
        "limit": "20",
        "state": "queued,running",
        "model": "bert",
        "label": ["a:b", "c:d"],
    }
