"""How `map` goes through its inputs: the plan alone, with a clock of the test's."""

from __future__ import annotations

import random
from typing import Any

import httpx
import pytest

from ml_service_client import MLServiceError, QueueFull
from ml_service_client.core.answers import error_of
from ml_service_client.core.plan import End, Give, Idle, Item, Plan, Pull, Start
from ml_service_client.core.retries import Policy, retry_after_s

POLICY = Policy(3, dice=lambda: 0.0)


def refusal(status: int = 503, code: str = "queue_full", **more: Any) -> MLServiceError:
    after = more.pop("after", None)
    headers = {"Retry-After": str(after)} if after else {}
    request = httpx.Request("POST", "http://h/")
    response = httpx.Response(status, json={"code": code, "detail": "", **more}, headers=headers, request=request)
    return error_of(response, retry_after_s(response))


class World:
    """Runs a plan: `serve` decides about each start, in random order of landing."""

    def __init__(self, total: int, concurrency: int, serve: Any, seed: int = 0) -> None:
        self.plan = Plan(concurrency, POLICY, now=0.0)
        self.clock, self.total, self.serve = 0.0, total, serve
        self.dice = random.Random(seed)
        self.pulled = 0
        self.flying: list[Item] = []
        self.most_flying = self.most_between = self.starts = 0
        self.given: list[Any] = []

    def run(self) -> list[Any]:
        while True:
            step = self.plan.next(self.clock)
            if isinstance(step, End):
                assert not self.flying
                return self.given
            if isinstance(step, Give):
                self.given.append(step.result)
            elif isinstance(step, Pull):
                if self.pulled == self.total:
                    self.plan.exhausted()
                else:
                    self.plan.pulled(self.pulled)
                    self.pulled += 1
            elif isinstance(step, Start):
                self.starts += 1
                self.flying.append(step.item)
            else:
                assert isinstance(step, Idle)
                self._idle(step)
            self.most_flying = max(self.most_flying, len(self.flying))
            self.most_between = max(self.most_between, self.pulled - len(self.given))

    def _idle(self, step: Idle) -> None:
        if not self.flying:
            assert step.seconds, "nothing under way, nothing to wait for: stuck"
            self.clock += step.seconds
            return
        self.clock += 0.01
        item = self.flying.pop(self.dice.randrange(len(self.flying)))
        outcome = self.serve(item, self.clock)
        if isinstance(outcome, Exception):
            self.plan.failed(item, outcome, self.clock)
        else:
            self.plan.landed(item, outcome, self.clock)


@pytest.mark.parametrize("seed", range(20))
def test_all_in_order_with_bounded_memory_and_flights(seed: int) -> None:
    world = World(500, 8, lambda item, now: item.given * 10, seed)
    assert world.run() == [n * 10 for n in range(500)]
    assert world.most_flying == 8
    assert world.most_between <= 4 * 8


def test_no_inputs() -> None:
    assert World(0, 8, None).run() == []


def test_a_slow_first_one_does_not_let_the_others_run_away() -> None:
    held: list[Item] = []

    def serve(item: Item, now: float) -> Any:
        if item.index == 0 and not held:
            held.append(item)
            return refusal(after=50)  # comes again, much later
        return item.given

    world = World(100, 4, serve)
    assert world.run() == list(range(100))
    assert world.most_between <= 16


def test_holds_back_as_long_as_it_is_asked_and_starts_with_half() -> None:
    plan = Plan(8, POLICY, now=0.0)
    items = _start(plan, 8)
    plan.failed(items[0], refusal(after=5), 1.0)
    plan.failed(items[1], refusal(after=3), 1.1)  # was under way: no second halving, no earlier end
    assert plan.next(1.2) == Idle(pytest.approx(6.0 - 1.2))
    for item in items[2:]:
        plan.landed(item, None, 2.0)
    plan.next(2.0)
    assert isinstance(plan.next(5.9), Idle)
    started = []
    while isinstance(step := plan.next(6.0), Start | Pull):
        if isinstance(step, Pull):
            plan.pulled(0)
        else:
            started.append(step.item)
    assert started[:2] == [items[0], items[1]], "those that were refused go first, with their keys"
    assert 4 <= len(started) <= 6


def _start(plan: Plan, count: int) -> list[Item]:
    started: list[Item] = []
    while len(started) < count:
        step = plan.next(0.0)
        if isinstance(step, Pull):
            plan.pulled(len(started))
        else:
            assert isinstance(step, Start)
            started.append(step.item)
    return started


def test_a_refusal_is_waited_out_with_the_same_key() -> None:
    keys: dict[int, set[str]] = {}
    tries: dict[int, int] = {}

    def serve(item: Item, now: float) -> Any:
        keys.setdefault(item.index, set()).add(item.key)
        tries[item.index] = tries.get(item.index, 0) + 1
        return refusal(429, "rate_limited", after=1) if tries[item.index] <= 6 else item.given

    assert World(20, 4, serve).run() == list(range(20)), "more often than a single call would try"
    assert all(len(found) == 1 for found in keys.values())


def test_errors_stand_at_their_place_and_are_not_repeated() -> None:
    def serve(item: Item, now: float) -> Any:
        return refusal(422, "invalid_input") if item.index % 5 == 3 else item.given

    world = World(20, 4, serve)
    given = world.run()
    assert [isinstance(one, MLServiceError) for one in given] == [n % 5 == 3 for n in range(20)]
    assert world.starts == 20
    assert (world.plan.done, world.plan.bad) == (20, 4)


def test_a_fault_of_the_service_is_tried_as_often_as_a_single_call_would() -> None:
    world = World(1, 4, lambda item, now: refusal(500, "internal_error"))
    assert [one.code for one in world.run()] == ["internal_error"]
    assert world.starts == 4


def test_gives_up_when_nothing_succeeds_for_too_long() -> None:
    world = World(3, 2, lambda item, now: refusal(after=60))
    given = world.run()
    assert all(isinstance(one, QueueFull) for one in given)
    assert 300 < world.clock < 450


def test_a_lost_connection_goes_again_and_a_service_that_is_away_is_waited_for() -> None:
    def lost(item: Item, now: float) -> Any:
        return httpx.ReadError("") if item.attempt < 3 else item.given

    assert World(5, 2, lost).run() == list(range(5))

    def away(item: Item, now: float) -> Any:
        return httpx.ConnectError("") if now < 60 else item.given

    assert World(5, 2, away).run() == list(range(5))


def test_a_bug_of_the_caller_is_told_at_once() -> None:
    world = World(1, 2, lambda item, now: TypeError("not JSON: set"))
    assert [type(one) for one in world.run()] == [TypeError]
    with pytest.raises(ValueError, match="concurrency"):
        Plan(0, POLICY, now=0.0)


def test_keys_of_ones_own() -> None:
    plan = Plan(2, POLICY, now=0.0, key=lambda n: f"run-7-{n}")
    assert [item.key for item in _start(plan, 2)] == ["run-7-0", "run-7-1"]
