"""The budget that a trial at load finds: on devices that are functions, then with MiniLM."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from shared.catalog import Ref
from shared.model_spec import BatchSpec, ModelSpec
from shared.settings import Settings
from tests import models
from worker.calibrate import ENOUGH, USUAL, Calibration, calibrate, ladder, search
from worker.handler import Handler, Prepared
from worker.handler_class import AnyHandler
from worker.handlers.text_embedding import TextEmbedding
from worker.models import LoadedModel, load_model

RUNGS = [256, 512, 1024, 2048, 4096, 8192]


class World:
    """A device whose batch of a cost takes as long as it is told to; only it moves the clock."""

    def __init__(self, seconds: Callable[[int, int], float | None]) -> None:
        self.now, self._seconds = 100.0, seconds
        self.ran: list[int] = []

    def clock(self) -> float:
        return self.now

    def measure(self, cost: int) -> float | None:
        taken = self._seconds(cost, self.ran.count(cost))
        self.ran.append(cost)
        self.now += taken or 0.0
        return taken

    def search(self, rungs: list[int] = RUNGS, limit_s: float = 1e9, usual: int = 100) -> Calibration:
        return search(rungs, self.measure, clock=self.clock, limit_s=limit_s, usual=usual)


def filling(full: int) -> Callable[[int, int], float]:
    """What costs less than `full` takes as long as that."""
    return lambda cost, _: 1e-4 * max(cost, full)


def test_the_smallest_that_is_about_as_fast_as_the_fastest() -> None:
    found = World(filling(1024)).search()
    assert (found.budget, found.ended) == (1024, "top")
    assert found.rates[512] == pytest.approx(5000)
    assert found.rates[8192] == pytest.approx(10_000)


def test_it_is_the_largest_up_to_the_usual_one_that_is_not_clearly_slower() -> None:
    assert World(filling(256)).search(usual=1024).budget == 1024
    assert World(filling(256)).search(usual=1500).budget == 1024, "the nearest below"
    assert World(filling(256)).search(usual=100).budget == 256
    assert World(filling(256)).search(usual=20_000).budget == 8192, (
        "items of one cost: it lies beyond what can be tried"
    )
    for seconds, expected in ((0.125, 1024), (0.13, 512)):
        world = World(lambda cost, _, seconds=seconds: seconds if cost == 1024 else 1e-4 * cost)  # type: ignore[misc]
        assert world.search(usual=1024).budget == expected


def test_slower_ones_end_the_climb_and_are_told() -> None:
    falling = World(lambda cost, _: {256: 0.05, 512: 0.1, 1024: 0.5, 2048: 1.0}[cost])
    found = falling.search()
    assert (found.budget, found.ended) == (256, "slower")
    assert max(falling.ran) == 1024
    assert falling.ran.count(1024) >= 2, "only what is slow again is slow"


def test_short_ones_are_tried_again_at_once() -> None:
    """Somebody else's work in the first runs of the small ones; the large ones take longer than that."""
    world = World(lambda cost, time: cost * (3e-5 if time or cost > 2048 else 9e-5))
    found = world.search(usual=1024)
    assert (found.budget, found.ended) == (1024, "top")
    assert world.ran[:6] == [256] * 3 + [512] * 3
    long = World(lambda cost, _: 0.15)
    long.search(limit_s=2.0)
    assert long.ran[:6] == RUNGS, "longer ones are not"


def test_what_borders_on_the_fastest_gets_another_chance_and_what_lies_above_it_too() -> None:
    world = World(lambda cost, time: cost * (3e-4 if cost == 1024 and time < 2 else 1e-4))
    found = world.search(usual=8192)
    assert (found.budget, found.ended) == (8192, "top")


def test_a_device_that_never_fills_takes_the_ladders_top() -> None:
    found = World(lambda cost, _: 0.5).search()
    assert (found.budget, found.ended) == (8192, "top")


def test_the_memory_ends_it() -> None:
    found = World(lambda cost, _: 0.1 if cost < 2048 else None).search()
    assert (found.budget, found.ended) == (1024, "memory")
    assert World(lambda *_: None).search(usual=77) == Calibration(77, {}, "memory", 0.0)


def test_the_time_ends_it_and_what_was_seen_decides() -> None:
    seen = World(filling(256)).search(limit_s=0.2)
    assert (seen.budget, seen.ended) == (256, "time")
    rising = World(lambda cost, _: 0.3).search(limit_s=0.5, usual=1024)
    assert (rising.budget, rising.ended) == (1024, "time")
    assert rising.rates == {256: pytest.approx(256 / 0.3)}
    assert World(lambda cost, _: 0.3).search(limit_s=0.5, usual=100).budget == 256


def test_the_usual_one_is_tried_again_before_others() -> None:
    """A start beside this one takes a core for a while: half the rate. There is time for one run more."""
    world = World(lambda cost, before: 1e-3 * cost * (2 if cost == 1024 and before < 2 else 1))
    found = world.search(RUNGS[1:], limit_s=5.7, usual=1024)
    assert world.ran == [512, 1024, 1024, 1024]
    assert found.budget == 1024


def test_a_moments_disturbance_does_not_decide() -> None:
    world = World(lambda cost, time: cost * (1e-4 if time else 3e-4))  # each first time is slow
    found = world.search()
    assert (found.budget, found.ended) == (256, "top")
    small = World(lambda cost, time: cost * (1.4e-4 if (cost, time) == (256, 0) else 1e-4))
    assert small.search().budget == 256
    one = World(lambda cost, time: cost * (4e-4 if (cost, time) == (512, 0) else 1e-4))
    assert one.search().ended == "top"


@given(
    st.lists(st.floats(0.001, 5.0), min_size=6, max_size=6),
    st.floats(0.0, 20.0),
    st.integers(0, 6),
    st.integers(1, 10_000),
)
@example([1.0] * 6, 0.0, 6, 1024)
def test_whatever_the_device_does(taken: list[float], limit_s: float, fits: int, usual: int) -> None:
    """`taken`: seconds of each rung; the memory holds the first `fits`."""
    table = dict(zip(RUNGS, taken, strict=True))
    world = World(lambda cost, _: table[cost] if RUNGS.index(cost) < fits else None)
    found = world.search(limit_s=limit_s, usual=usual)
    assert found.budget in RUNGS or found.budget == usual
    assert list(found.rates) == RUNGS[: len(found.rates)], "tried from the smallest on, none left out"
    if found.rates:
        best = max(found.rates.values())
        fair = [rung for rung, rate in found.rates.items() if rung <= usual and rate >= USUAL * best]
        good = [rung for rung, rate in found.rates.items() if rate >= ENOUGH * best]
        expected = max(fair) if fair else min(good)
        if found.ended == "time" and expected == max(found.rates):  # it may have risen further
            expected = max(expected, usual)
        assert found.budget == expected
        # One that was slower than the best lets hope may outlast the limit, and none begins after it.
        assert found.seconds <= max(limit_s, table[256]) + 2 * max(taken)


@given(st.integers(1, 5000), st.integers(1, 4096), st.integers(1, 70_000))
def test_the_ladder(cost: int, max_size: int, most_cost: int) -> None:
    rungs = ladder(cost, max_size=max_size, most_cost=most_cost)
    assert rungs == sorted(set(rungs))
    assert all(rung % cost == 0 and rung <= min(most_cost, max_size * cost) for rung in rungs)
    assert bool(rungs) is (cost <= most_cost)
    if rungs:
        assert (rungs[0], rungs[-1]) == (cost, cost * min(max_size, most_cost // cost))


def test_items_of_cost_1_and_a_size_that_is_no_power_of_two() -> None:
    assert ladder(1, max_size=20, most_cost=8192) == [1, 2, 4, 8, 16, 20]


class Size(BaseModel):
    cost: int = 1


class Sized(Handler[Size, Size]):
    """Has memory for `memory` of cost; remembers what it ran and the budgets that it was told."""

    example = [Size(cost=1), Size(cost=200), Size(cost=700)]
    memory = 10**9

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.told: list[int] = []

    def prepare(self, item: Size, parameters: Any) -> Prepared:
        return Prepared(item, cost=item.cost)

    def use_budget(self, max_cost: int) -> None:
        self.told.append(max_cost)

    def predict(self, batch: list[Size]) -> list[Size]:
        if sum(item.cost for item in batch) > self.memory:
            raise MemoryError("no more")
        self.seen.append((batch[0].cost, len(batch)))
        return batch


def run(handler: Sized, **more: Any) -> Calibration | None:
    ticks = iter(range(10**6))
    known = {"max_size": 8, "most_cost": 8192, "usual": 1, "limit_s": 1e9, "clock": lambda: float(next(ticks))}
    return calibrate(handler, handler.example, **known | more)


def test_batches_are_of_the_costliest_usual_item_and_the_handler_hears() -> None:
    handler = Sized()
    found = run(handler)
    assert found
    assert found.budget == 1600, "each batch takes one tick: the larger the better"
    assert {200} == {cost for cost, _ in handler.seen}
    assert {count for _, count in handler.seen} == {2, 4, 8}, "a budget of one large item would seldom be full"
    assert handler.told[-1] == 1600
    assert handler.told[:3] == [400, 800, 1600]


def test_as_many_streams_as_pay_are_found_before_the_budget() -> None:
    """Batches at once take one tick together: the more the better; and they are at once."""
    handler, parts = Sized(), list[int]()
    found = run(handler, streams=[1, 2, 4], usual_streams=2, part=parts.append)
    assert found
    assert (found.budget, found.streams) == (1600, 4)
    assert found.stream_rates == {1: 400, 2: 800, 4: 1600}
    assert found.rates == {400: 1600, 800: 3200, 1600: 6400}
    assert set(parts) == {2, 4}
    assert found.card()["cost_per_s_by_streams"] == {"1": 400.0, "2": 800.0, "4": 1600.0}
    assert found.card()["streams"] == 4


def test_streams_that_the_memory_does_not_hold_are_not_taken() -> None:
    together = threading.Semaphore(2)

    class Narrow(Sized):
        """Room for two batches at once."""

        def predict(self, batch: list[Size]) -> list[Size]:
            if not together.acquire(blocking=False):
                raise MemoryError("no more")
            inside.wait(0.2)
            together.release()
            return super().predict(batch)

    inside = threading.Event()
    found = run(Narrow(), streams=[1, 2, 4])
    assert found
    assert found.streams == 2
    assert found.stream_rates[4] == 0


def test_nothing_to_choose_from_changes_nothing() -> None:
    for more in ({"max_size": 1}, {"max_size": 2}, {"most_cost": 300}):
        handler = Sized()
        assert run(handler, **more) is None
        assert not handler.seen and not handler.told  # noqa: PT018 - one claim
    assert run(type("Bare", (Sized,), {"example": []})()) is None


def test_a_batch_that_the_memory_does_not_hold_is_no_error_and_others_are() -> None:
    small = type("Small", (Sized,), {"memory": 500})()
    found = run(small)  # 8 items do not fit, nor do 4
    assert found
    assert (found.budget, found.ended) == (400, "memory")
    assert small.told[-1] == 400

    class Odd(Sized):
        def predict(self, batch: list[Size]) -> list[Size]:
            raise RuntimeError("wrong shape")

    with pytest.raises(RuntimeError, match="wrong shape"):
        run(Odd())


def load(kind: type[AnyHandler], task: str | None = None, calibrate_s: float = 0.3, **spec: Any) -> LoadedModel:
    given = {"task": task} if task else {"handler": "a.py:B"}
    source = {"source": models.minilm()} if task else {}
    own = ModelSpec.model_validate({**given, "versions": {"1": source}, **spec})
    settings = Settings(torch_threads=1, calibrate_s=calibrate_s)
    return load_model(Ref("m", "1"), own, own.versions["1"], kind, device="cpu", settings=settings)


def test_minilm_is_calibrated_as_it_loads_and_its_card_and_log_tell(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ml.worker"):
        model = load(TextEmbedding, "text-embedding", batch="auto")
    rungs = ladder(256, max_size=64, most_cost=8192)[1:]
    assert model.max_cost in rungs
    assert model.handler.pass_tokens == model.max_cost  # type: ignore[attr-defined]
    card = orjson.loads(orjson.dumps(model.card()))
    assert card["limits"]["max_batch_cost"] == card["calibration"]["max_cost"] == model.max_cost
    assert set(card["calibration"]["cost_per_s"]) <= set(map(str, rungs))
    told = [record for record in caplog.records if record.getMessage() == "model_calibrated"]
    assert [record.fields["max_cost"] for record in told] == [model.max_cost]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({"calibrate_s": 0}, {}),
        ({"batch": {"max_cost": 100}}, {}),
        ({"load": "lazy"}, {}),
        ({}, {"uses_torch": False}),
        ({}, {"concurrency": 2}),
    ],
)
def test_what_is_not_calibrated(fields: dict[str, Any], more: dict[str, Any]) -> None:
    model = load(type("Kind", (Sized,), more), **fields)
    assert model.calibration is None
    assert "calibration" not in model.card()
    assert model.max_cost == (100 if "batch" in fields else 1024)
    assert not model.handler.told  # type: ignore[attr-defined]


@pytest.mark.long
def test_minilm_finds_its_streams_and_runs_in_them(tmp_path: Path) -> None:
    """What they give at once is what one gives."""
    spec = ModelSpec.model_validate(
        {"task": "text-embedding", "versions": {"1": {"source": models.minilm()}}, "batch": {"max_cost": 512}}
    )
    settings = Settings(torch_threads=2, calibrate_s=0.3, lock_dir=tmp_path)
    before = torch.get_num_threads()
    try:

        def loaded(**more: Any) -> LoadedModel:
            own = spec.model_copy(update=more)
            return load_model(Ref("m", "1"), own, own.versions["1"], TextEmbedding, device="cpu", settings=settings)

        assert loaded().streams == 2, "nothing is tried where the file says the budget"
        model = loaded(batch=BatchSpec())
        assert model.calibration
        assert set(model.calibration.stream_rates) == {1, 2}
        assert model.streams == model.calibration.streams
        ids = [[101, *range(2000 + 10 * n, 2000 + 11 * n + 1), 102] for n in range(40)]
        alone = model.handler.predict(ids)
        with ThreadPoolExecutor(2) as threads:
            for together in threads.map(model.handler.predict, [ids] * 4):
                np.testing.assert_allclose(together, alone, atol=1e-5)
    finally:
        torch.set_num_threads(before)
