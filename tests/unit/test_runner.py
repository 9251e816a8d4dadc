"""The threads that predict: one for the device, many for a version that only asks somebody else; what is tried again
and when; a call that never ends. The claim (tests/unit/test_scripts*.py) lets everything through here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from shared import keys
from shared.catalog import Ref
from tests.conftest import wait_until
from worker.batcher import Budget
from worker.claims import Claimed
from worker.device import Device
from worker.handler import Answered, Handler, ItemError, Listener, Prepared, TryLater
from worker.metrics import WorkerMetrics
from worker.models import LoadedModel
from worker.runner import Runner
from worker.runners import Runners
from worker.shelf import Standing
from worker.work import Item, Unit, Work

REF = Ref("m", "1")


class Asks(Handler[Any, Any]):
    """Does with each batch what the test says."""

    uses_torch = False

    def __init__(self, do: Callable[[list[Any]], list[Any]], *, concurrency: int = 0, retries: int = 2) -> None:
        self.do, self.concurrency, self.retries = do, concurrency, retries

    def predict(self, batch: list[Any]) -> list[Any]:
        return self.do(batch)


class Place:
    """On the shelf."""

    def __init__(self, version: str) -> None:
        self.ref, self.standing = Ref("p", version), Standing.READY


class Delivered:
    """In the finisher's place."""

    def __init__(self) -> None:
        self.outputs: dict[Any, Any] = {}
        self.here: list[bool] = []

    def flush(self, timeout: float | None = None) -> None:
        """Nothing waits here."""

    def deliver(
        self, units: list[Unit], outputs: list[Any], predict_ms: float, *, share: float = 1.0, here: bool = False
    ) -> None:
        self.here.append(here)
        for unit, output in zip(units, outputs, strict=True):
            assert unit.prepared.item not in self.outputs, "twice"
            self.outputs[unit.prepared.item] = output


def model_of(handler: Asks, streams: int = 1) -> LoadedModel:
    made: Any = SimpleNamespace(
        ref=REF,
        handler=handler,
        max_size=8,
        timeout_s=60.0,
        concurrency=handler.concurrency,
        retries=handler.retries,
        halved_batches=0,
        streams=streams,
        failed_batches=0,
    )
    found: LoadedModel = made
    return found


def units_of(
    model: LoadedModel, *values: Any, place: Any = None, size: int = 1, priority: int = keys.NORMAL
) -> list[Unit]:
    """A job for each."""
    units = []
    for value in values:
        work = Work(str(value), str(value), REF, priority, request=None, model=model, place=place)
        work.items, work.open_items = [Item(outputs=[None], missing=1)], 1
        units.append(Unit(work, 0, 0, Prepared(value), Budget(size, 1000)))
    return units


@contextmanager
def running(threads: int = 1, **more: Any) -> Iterator[tuple[Runner, dict[Any, Any]]]:
    delivered = Delivered()
    runner = runner_of(delivered, threads=threads, **more)
    runner.start()
    try:
        yield runner, delivered.outputs
    finally:
        runner.close()
        assert runner.join(10)


def runner_of(delivered: Delivered, **more: Any) -> Runner:
    claimer: Any = SimpleNamespace(claim=lambda units, stopped, call=False, solo=False: Claimed(list(units)))
    finisher: Any = delivered
    metrics = WorkerMetrics("w", Device("cpu"))
    return Runner(
        claimer, finisher, metrics, lambda units: Listener(lambda *_: None, lambda *_: None), worker="w", **more
    )


def test_as_many_calls_at_a_time_as_threads() -> None:
    together = threading.Barrier(4)

    def ask(batch: list[Any]) -> list[Any]:
        together.wait(10)
        return batch

    model = model_of(Asks(ask, concurrency=4))
    with running(threads=4) as (runner, outputs):
        runner.put(units_of(model, *range(8)))
        wait_until(lambda: len(outputs) == 8)
    assert outputs == {n: n for n in range(8)}


def test_a_failure_of_the_moment_is_tried_again_and_then_is_one() -> None:
    asked: list[Any] = []

    def ask(batch: list[Any]) -> list[Any]:
        asked.extend(batch)
        if batch == ["never"] or asked.count(batch[0]) == 1:
            raise TryLater("gone for a moment")
        return batch

    model = model_of(Asks(ask, concurrency=2, retries=2))
    with running(threads=2) as (runner, outputs):
        runner.put(units_of(model, "once", "never"))
        wait_until(lambda: len(outputs) == 2)
        assert runner.waiting() == 0
    assert outputs["once"] == "once"
    assert (outputs["never"].code, outputs["never"].message) == ("provider_error", "gone for a moment")
    assert (asked.count("once"), asked.count("never")) == (2, 3)


def test_who_says_when_to_come_back_is_asked_nothing_until_then() -> None:
    """Neither for what it refused nor for what came after; and it is never held against them."""
    now = [1000.0]
    asked: list[Any] = []

    def ask(batch: list[Any]) -> list[Any]:
        asked.extend(batch)
        if now[0] < 1020:
            raise TryLater("busy", after_s=20, code="rate_limited")
        return batch

    model = model_of(Asks(ask, concurrency=1, retries=0))
    with running(clock=lambda: now[0]) as (runner, outputs):
        runner.put(units_of(model, "first"))
        wait_until(lambda: runner.waiting() == 1 and asked)
        runner.put(units_of(model, "second"))
        assert (asked, outputs, runner.waiting()) == (["first"], {}, 2)
        now[0] = 1020.0
        runner.put(units_of(model, "third"))  # wakes it: this clock does not run by itself
        wait_until(lambda: len(outputs) == 3)
    assert sorted(asked) == ["first", "first", "second", "third"]


def test_what_is_put_off_can_still_be_dropped() -> None:
    def ask(batch: list[Any]) -> list[Any]:
        raise TryLater("busy", after_s=3600 if batch[0] == "held" else None)

    model = model_of(Asks(ask, concurrency=1, retries=9))
    with running(clock=lambda: 0.0) as (runner, outputs):
        units = units_of(model, "later", "held")
        runner.put(units[:1])
        wait_until(lambda: runner.waiting() == 1)
        runner.put(units[1:])
        wait_until(lambda: runner.waiting() == 2 and not runner.runs())
        for unit in units:
            runner.drop(unit.work)
        assert (runner.waiting(), outputs) == (0, {})


def test_who_was_canceled_need_not_wait_for_the_provider() -> None:
    """A job in a provider's hour of rest has ended meanwhile: the claim tells."""
    now, asked, over = [0.0], [], set[str]()

    def ask(batch: list[Any]) -> list[Any]:
        asked.extend(batch)
        raise TryLater("busy", after_s=3600)

    def claim(units: list[Unit], stopped: Any, call: bool = False, solo: bool = False) -> Claimed:
        for unit in units:
            unit.work.ended = unit.work.ended or unit.work.job_id in over
        return Claimed([unit for unit in units if not unit.work.ended])

    model = model_of(Asks(ask, concurrency=1))
    with running(clock=lambda: now[0]) as (runner, outputs):
        runner._claimer.claim = claim  # type: ignore[method-assign]
        runner.put(units_of(model, "canceled", "stays", size=2))
        wait_until(lambda: runner.waiting() == 2 and not runner.runs() and len(asked) == 2)
        over.add("canceled")
        now[0] = 10.0
        runner.put(units_of(model, "wakes it"))
        wait_until(lambda: runner.waiting() == 2, what="the one and the other that wakes")
        assert (sorted(asked), outputs) == (["canceled", "stays"], {})


def test_of_a_halved_batch_only_what_was_refused_waits() -> None:
    """One bad text in a call of four; then the provider has enough, in the middle of looking for it."""
    calls: list[list[Any]] = []

    def ask(batch: list[Any]) -> list[Any]:
        calls.append(batch)
        if "bad" in batch:
            raise ItemError("no text")
        if len(calls) == 3:
            raise TryLater("busy")
        return batch

    model = model_of(Asks(ask, concurrency=1))
    with running() as (runner, outputs):
        runner.put(units_of(model, "bad", 1, 2, 3, size=8))
        wait_until(lambda: len(outputs) == 4)
    assert outputs["bad"].code == "invalid_input"
    assert {key: outputs[key] for key in (1, 2, 3)} == {1: 1, 2: 2, 3: 3}
    assert calls[0] == ["bad", 1, 2, 3]


def test_who_says_at_once_is_asked_less_and_less_often() -> None:
    now, asked = [0.0], []

    def ask(batch: list[Any]) -> list[Any]:
        asked.append(now[0])
        raise TryLater("busy", after_s=0)

    with running(clock=lambda: now[0]) as (runner, _):
        runner.put(units_of(model_of(Asks(ask, concurrency=1, retries=0)), "a"))
        for second in (0.0, 0.5, 1.5, 3.5):  # pauses of up to 0.5, 1 and 2 s
            now[0] = second
            runner.put(units_of(model_of(Asks(lambda batch: batch)), f"wakes it at {second}"))
            wait_until(lambda: asked and asked[-1] == now[0])
    assert len(asked) == 4


def test_what_asks_from_the_device_holds_up_nobody_else() -> None:
    def ask(batch: list[Any]) -> list[Any]:
        raise TryLater("busy", after_s=3600)

    with running() as (runner, outputs):
        runner.put(units_of(model_of(Asks(ask)), "waits"))
        runner.put(units_of(model_of(Asks(lambda batch: batch)), "other"))
        wait_until(lambda: "other" in outputs)
        wait_until(lambda: runner.waiting() == 1)


def test_what_is_due_again_does_not_wait_for_another() -> None:
    """Two of one call that failed for a moment: each is tried by a thread of its own."""
    together, first = threading.Barrier(2), [True]

    def ask(batch: list[Any]) -> list[Any]:
        if first[0]:
            first[0] = False
            raise TryLater("gone for a moment")
        together.wait(10)
        return batch

    model = model_of(Asks(ask, concurrency=2))
    with running(threads=2) as (runner, outputs):
        units = units_of(model, "a", "b", size=2)
        runner.put(units)
        wait_until(lambda: runner.waiting() == 2)
        for unit in units:
            unit.budget = Budget(1, 1000)
        wait_until(lambda: len(outputs) == 2)


@pytest.mark.parametrize(
    "wrong",
    [
        Answered(1, read=-1),
        Answered(1, read=None),  # type: ignore[arg-type]  # as a remote answer has it
        Answered(1, cost=float("nan")),
        TryLater("", after_s="5"),  # type: ignore[arg-type]  # likewise
        TryLater("", after_s=float("inf")),
    ],
)
def test_what_cannot_be_counted_fails_its_item(wrong: Any) -> None:
    def ask(batch: list[Any]) -> list[Any]:
        if isinstance(wrong, TryLater):
            raise wrong
        return [wrong]

    with running() as (runner, outputs):
        runner.put(units_of(model_of(Asks(ask, concurrency=1)), "a"))
        wait_until(lambda: "a" in outputs)
    assert outputs["a"].code == "handler_contract"


def test_a_call_that_is_refused_as_a_whole_is_asked_once() -> None:
    asked: list[Any] = []

    def ask(batch: list[Any]) -> list[Any]:
        asked.append(batch)
        raise ItemError("no account", code="provider_error")

    with running() as (runner, outputs):
        runner.put(units_of(model_of(Asks(ask, concurrency=1)), *range(8), size=8))
        wait_until(lambda: len(outputs) == 8)
    assert (len(asked), {error.code for error in outputs.values()}) == (1, {"provider_error"})


def test_what_it_cost_is_counted() -> None:
    model = model_of(Asks(lambda batch: [Answered(one, read=10, written=5, cost=0.25) for one in batch], concurrency=1))
    delivered = Delivered()
    runner = runner_of(delivered)
    runner.start()
    units = units_of(model, "a", "b")
    runner.put(units)
    wait_until(lambda: len(delivered.outputs) == 2)
    runner.close()
    assert runner.join(10)
    assert delivered.outputs == {"a": "a", "b": "b"}
    assert [unit.prepared.tokens for unit in units] == [15, 15]
    value = runner._metrics.registry.get_sample_value
    labels = {"worker": "w", "model": "m", "version": "1"}
    assert value("ml_call_tokens_total", {**labels, "direction": "read"}) == 20
    assert value("ml_call_tokens_total", {**labels, "direction": "written"}) == 10
    assert value("ml_call_cost_total", labels) == 0.5
    assert value("ml_device_busy_seconds_total", labels) == 0, "no device has done it"


def test_a_call_that_never_ends_is_given_up_and_another_thread_goes_on() -> None:
    release = threading.Event()

    def ask(batch: list[Any]) -> list[Any]:
        if batch == ["stuck"]:
            release.wait(30)
        return batch

    model = model_of(Asks(ask, concurrency=1))
    with running() as (runner, outputs):
        runner.put(units_of(model, "stuck"))
        wait_until(lambda: len(runner.runs()) == 1)
        runner.put(units_of(model, "next"))
        (run,) = runner.runs()
        assert [work.job_id for work in run.works] == ["stuck"]
        assert runner.abandon(run)
        assert not runner.abandon(run), "once"
        wait_until(lambda: "next" in outputs)
        release.set()
    assert outputs == {"next": "next"}, "what comes of the other is dropped"


def test_each_version_that_asks_somebody_else_has_threads_of_its_own() -> None:
    """A provider that hangs holds up neither another nor the device."""
    release, delivered = threading.Event(), Delivered()

    def hang(batch: list[Any]) -> list[Any]:
        release.wait(30)
        return batch

    runners = Runners(lambda **more: runner_of(delivered, **more), before=lambda _: None)
    runners.start()
    places: dict[str, Any] = {"slow": Place("1"), "quick": Place("2")}
    runners.put(units_of(model_of(Asks(hang, concurrency=1)), "hangs", place=places["slow"]))
    wait_until(lambda: len(list(runners.calls())) == 1)
    runners.put(units_of(model_of(Asks(lambda batch: batch, concurrency=1)), "other", place=places["quick"]))
    runners.put(units_of(model_of(Asks(lambda batch: batch)), "device"))
    wait_until(lambda: {"other", "device"} <= set(delivered.outputs))
    assert runners.on_device() == []
    assert [run.works[0].job_id for _, run in runners.calls()] == ["hangs"]
    release.set()
    wait_until(lambda: "hangs" in delivered.outputs)
    places["slow"].standing = Standing.UNLOADED
    runners.tidy()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "calls p@1"], what="its threads are gone")
    assert [t for t in threading.enumerate() if t.name == "calls p@2"]
    assert runners.stop(10)


def test_stopping_finishes_what_is_under_way_and_begins_nothing() -> None:
    begun, release, delivered = threading.Event(), threading.Event(), Delivered()

    def ask(batch: list[Any]) -> list[Any]:
        begun.set()
        release.wait(30)
        return batch

    runner = runner_of(delivered)
    runner.start()
    runner.put(units_of(model_of(Asks(ask, concurrency=1)), "under way", "waits"))
    assert begun.wait(10)
    runner.close()
    assert not runner.join(0.01)
    release.set()
    assert runner.join(10)
    assert (delivered.outputs, runner.waiting()) == ({"under way": "under way"}, 1)


@pytest.mark.parametrize("concurrency", [0, 2])
def test_what_is_told_reaches_the_listener_of_its_own_call(concurrency: int) -> None:
    heard: list[tuple[str, int, Any]] = []
    together = threading.Barrier(concurrency or 1)

    class Tells(Asks):
        def predict(self, batch: list[Any]) -> list[Any]:
            together.wait(10)
            self.progress(0, 0.5)
            self.say(0, batch[0])
            return batch

    delivered = Delivered()
    runner = runner_of(delivered, threads=concurrency or 1)
    runner._listener = lambda units: Listener(
        lambda position, fraction, message: heard.append((units[position].work.job_id, position, fraction)),
        lambda position, text: heard.append((units[position].work.job_id, position, text)),
    )
    runner.start()
    handler = Tells(lambda batch: batch, concurrency=concurrency)
    runner.put(units_of(model_of(handler), "a", "b"))
    wait_until(lambda: len(delivered.outputs) == 2)
    runner.close()
    assert runner.join(10)
    assert sorted(heard, key=str) == sorted([("a", 0, 0.5), ("a", 0, "a"), ("b", 0, 0.5), ("b", 0, "b")], key=str)
    handler.say(0, "too late")
    assert len(heard) == 4


class Device2:
    """Notes which batches are on it together, and lets none end before the test says so."""

    def __init__(self) -> None:
        self.lock, self.may_end = threading.Lock(), threading.Semaphore(0)
        self.here: list[Any] = []
        self.seen: list[tuple[Any, ...]] = []

    def ask(self, batch: list[Any]) -> list[Any]:
        with self.lock:
            self.here.append(batch[0])
            self.seen.append(tuple(self.here))
        assert self.may_end.acquire(timeout=10)
        with self.lock:
            self.here.remove(batch[0])
        return batch


def test_batches_of_streams_run_at_a_time_and_each_knows_its_part() -> None:
    device, parts = Device2(), list[int]()
    model = model_of(Asks(device.ask), streams=2)
    with running(threads=4, limit=lambda: 4, before=parts.append) as (runner, outputs):
        runner.put(units_of(model, "a"))
        wait_until(lambda: device.here == ["a"])
        runner.put(units_of(model, "b", "c"))
        wait_until(lambda: device.here == ["a", "b"])
        assert [run.share for run in runner.runs()] == [1.0, 0.5]
        assert runner.waiting() == 1, "two at a time, whatever threads there are"
        device.may_end.release()
        wait_until(lambda: len(device.seen) == 3)
        device.may_end.release(2)
        wait_until(lambda: len(outputs) == 3)
    assert parts == [1, 2, 2], "one that is alone has all of it"


def test_who_is_alone_runs_in_the_same_thread_each_time_and_so_after_company() -> None:
    """OpenMP would keep a team of threads for each of them, and let none spin."""
    alone: list[threading.Thread] = []
    now, device = [0.0], Device2()
    model = model_of(Asks(device.ask), streams=2)

    def before(parts: int) -> None:
        if parts == 1:
            alone.append(threading.current_thread())

    with running(threads=2, limit=lambda: 2, before=before, clock=lambda: now[0]) as (runner, outputs):
        for number in range(0, 40, 4):
            now[0] += 1  # the company of the last round is long ago
            for lone in (number, number + 1):
                runner.put(units_of(model, lone))
                device.may_end.release()
                wait_until(lambda lone=lone: lone in outputs)  # type: ignore[misc]
            runner.put(units_of(model, number + 2, number + 3))
            device.may_end.release(2)
            wait_until(lambda number=number: number + 3 in outputs and number + 2 in outputs)  # type: ignore[misc]
            wait_until(lambda: not runner._taken)
    assert len(alone) >= 20
    assert len(set(alone)) == 1


def test_streams_divide_what_is_here_by_its_cost() -> None:
    device, sizes = Device2(), list[int]()

    def ask(batch: list[Any]) -> list[Any]:
        sizes.append(len(batch))
        return device.ask(batch)

    model = model_of(Asks(ask), streams=2)
    with running(threads=2, limit=lambda: 2) as (runner, outputs):
        runner.put(units_of(model, *range(8), size=64))
        wait_until(lambda: len(device.here) == 2)
        assert sizes == [4, 4]
        runner.put(units_of(model, *range(8, 14), size=64))
        device.may_end.release()
        wait_until(lambda: len(sizes) == 3)
        assert sizes[2:] == [5], "half of the 4 that run and the 6 that wait"
        device.may_end.release(3)
        wait_until(lambda: len(outputs) == 14)
    assert sizes[3:] == [1]


def test_who_runs_alone_and_who_asks_somebody_else_take_all_that_waits() -> None:
    sizes = list[int]()

    def ask(batch: list[Any]) -> list[Any]:
        sizes.append(len(batch))
        return batch

    suspect = units_of(model_of(Asks(ask), streams=2), *range(8), size=64)
    for unit in suspect:
        unit.work = suspect[0].work
    suspect[0].work.alone = True
    for units in (suspect, units_of(model_of(Asks(ask, concurrency=2)), *range(8), size=64)):
        with running(threads=2, limit=lambda: 2) as (runner, outputs):
            runner.put(units)
            wait_until(lambda outputs=outputs: len(outputs) == 8)  # type: ignore[misc]
    assert sizes == [8, 8]


def test_who_had_company_a_moment_ago_has_its_part_and_a_moment_later_all() -> None:
    now, device, parts = [0.0], Device2(), list[int]()
    model = model_of(Asks(device.ask), streams=2)
    with running(threads=2, limit=lambda: 2, before=parts.append, clock=lambda: now[0]) as (runner, outputs):

        def run(*values: str) -> None:
            runner.put(units_of(model, *values))
            wait_until(lambda: len(device.here) == len(values))
            if len(values) > 1:
                now[0] += 5  # company is what ends beside another, too
            device.may_end.release(len(values))
            wait_until(lambda: set(values) <= outputs.keys() and not runner._taken)

        run("nobody was here")
        run("one", "two")
        now[0] += 0.09
        run("a moment ago")
        now[0] += 0.02
        run("a moment later")
        run("nor has it had company since")
    assert parts == [1, 2, 2, 2, 1, 1]


def test_one_urgent_batch_runs_beside_a_flood_that_has_all_streams() -> None:
    flood, urgent, parts = Device2(), Device2(), list[int]()
    batches = list[list[Any]]()

    def ask(batch: list[Any]) -> list[Any]:
        batches.append(batch)
        return (flood if isinstance(batch[0], int) else urgent).ask(batch)

    model = model_of(Asks(ask), streams=2)
    with running(threads=5, limit=lambda: 4, before=parts.append) as (runner, outputs):
        runner.put(units_of(model, *range(16), size=4))
        wait_until(lambda: len(flood.here) == 2)
        runner.put(units_of(model, "first", size=4, priority=0))
        wait_until(lambda: urgent.here == ["first"])
        assert parts[2] == 4, "on one core"
        runner.put(units_of(model, "second", size=4, priority=0))
        with runner._lock:
            assert not runner._has_room(), "one of them at a time"
        flood.may_end.release()
        wait_until(lambda: urgent.here == ["first", "second"], what="whose stream is free takes the next")
        assert [runner.waiting(), len(flood.here)] == [8, 1]
        runner.put(units_of(model, "third", size=4, priority=0))
        urgent.may_end.release(3)
        wait_until(lambda: {"first", "second", "third"} <= outputs.keys())
        assert batches[2:5] == [["first"], ["second"], ["third"]], "with none of the flood, which runs beside them"
        flood.may_end.release(4)
        wait_until(lambda: len(outputs) == 19)
    assert all(len(together) <= 2 for together in flood.seen + urgent.seen)


def test_urgent_calls_to_somebody_else_are_filled_up_beside_others() -> None:
    device, batches = Device2(), list[list[Any]]()

    def ask(batch: list[Any]) -> list[Any]:
        batches.append(batch)
        return device.ask(batch)

    model = model_of(Asks(ask, concurrency=3))
    with running(threads=3) as (runner, outputs):
        for number, value in enumerate(("normal", "first", "second")):
            units = units_of(model, value, size=4, priority=keys.NORMAL if value == "normal" else 0)
            runner.put([*units, *units_of(model, "more", size=4)] if value == "second" else units)
            wait_until(lambda number=number: len(device.here) == number + 1)  # type: ignore[misc]
        device.may_end.release(3)
        wait_until(lambda: len(outputs) == 4)
    assert batches == [["normal"], ["first"], ["second", "more"]]


def test_what_is_to_be_tried_again_is_seen_to_beside_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads of the flood have no time to look."""
    monkeypatch.setattr("worker.runner._LOOK_S", 1000.0)
    device, now, looked = Device2(), [0.0], threading.Event()
    refused = [True]

    def ask(batch: list[Any]) -> list[Any]:
        if batch == ["later"] and refused.pop():
            raise TryLater("busy", after_s=3600)
        return device.ask(batch)

    def claim(units: list[Unit], stopped: Any, call: bool = False, solo: bool = False) -> Claimed:
        if [unit.prepared.item for unit in units] == ["later"] and not refused:
            looked.set()
        return Claimed(list(units))

    model = model_of(Asks(ask), streams=2)
    with running(threads=3, limit=lambda: 2, clock=lambda: now[0]) as (runner, outputs):
        runner._claimer.claim = claim  # type: ignore[method-assign]
        runner.put(units_of(model, "later", *range(4)))
        wait_until(lambda: len(device.here) == 2 and runner.waiting() == 3)
        now[0] += 1001
        device.may_end.release()
        assert looked.wait(5)
        device.may_end.release(3)
        wait_until(lambda: len(outputs) == 4)


@pytest.mark.parametrize("why", ["suspect", "one stream"])
def test_what_must_run_alone_has_nothing_urgent_beside_it(why: str) -> None:
    device = Device2()
    units = units_of(model_of(Asks(device.ask), streams=1 if why == "one stream" else 2), "lone", place=Place("2"))
    units[0].work.alone = why == "suspect"
    with running(threads=3, limit=lambda: 2) as (runner, outputs):
        runner.put(units)
        wait_until(lambda: device.here == ["lone"])
        runner.put(units_of(model_of(Asks(device.ask), streams=2), "urgent", priority=0))
        with runner._lock:
            assert not runner._has_room()
        device.may_end.release(2)
        wait_until(lambda: len(outputs) == 2)
    assert device.seen == [("lone",), ("urgent",)]


def test_no_more_at_a_time_than_this_process_has_cores() -> None:
    device = Device2()
    model = model_of(Asks(device.ask), streams=4)
    with running(threads=4, limit=lambda: 1) as (runner, outputs):
        runner.put(units_of(model, "a", "b", "c"))
        device.may_end.release(3)
        wait_until(lambda: len(outputs) == 3)
    assert all(len(together) == 1 for together in device.seen)


@pytest.mark.parametrize("why", ["suspect", "one stream"])
def test_nothing_runs_beside_who_must_be_alone_and_nothing_passes_over_it(why: str) -> None:
    device, parts = Device2(), list[int]()
    shared = model_of(Asks(device.ask), streams=2)
    lone = units_of(shared if why == "suspect" else model_of(Asks(device.ask)), "lone", place=Place("2"))
    lone[0].work.alone = why == "suspect"
    with running(threads=2, limit=lambda: 2, before=parts.append) as (runner, outputs):
        runner.put([*units_of(shared, "a"), *lone])
        wait_until(lambda: device.here == ["a"])
        runner.put(units_of(shared, "b", "c"))
        assert runner.waiting() == 3
        device.may_end.release()
        wait_until(lambda: device.here == ["lone"])
        assert runner.waiting() == 2
        device.may_end.release()
        wait_until(lambda: sorted(device.here) == ["b", "c"])
        device.may_end.release(2)
        wait_until(lambda: len(outputs) == 4)
    assert [together for together in device.seen if "lone" in together] == [("lone",)]
    assert parts[:2] == [1, 1], "what cannot run beside it leaves it the whole device"


def test_what_is_dropped_lets_pass_what_waited_behind_it() -> None:
    device = Device2()
    model = model_of(Asks(device.ask), streams=2)
    lone = units_of(model, "lone", place=Place("2"))
    lone[0].work.alone = True
    with running(threads=2, limit=lambda: 2) as (runner, outputs):
        runner.put([*units_of(model, "a"), *lone])
        wait_until(lambda: device.here == ["a"])
        runner.put(units_of(model, "b"))
        assert runner.waiting() == 2
        runner.drop(lone[0].work)
        wait_until(lambda: device.here == ["a", "b"])
        device.may_end.release(2)
        wait_until(lambda: len(outputs) == 2)


def test_the_device_has_all_its_threads_busy_and_waits_no_longer_than_it_must() -> None:
    """Many batches of two versions, one of which runs alone: none is lost, and nobody sleeps on."""
    at_once, most, lock = [0], dict[str, int](), threading.Lock()

    def ask(kind: str) -> Callable[[list[Any]], list[Any]]:
        def one(batch: list[Any]) -> list[Any]:
            with lock:
                at_once[0] += 1
                most[kind] = max(most.get(kind, 0), at_once[0])
            with lock:
                at_once[0] -= 1
            return batch

        return one

    twins, lone = model_of(Asks(ask("twins")), streams=3), model_of(Asks(ask("lone")))
    with running(threads=6, limit=lambda: 3) as (runner, outputs):
        for number in range(0, 900, 3):
            runner.put(units_of(twins, number, place=Place("1")))
            runner.put(units_of(lone, number + 1, place=Place("2")))
            runner.put(units_of(twins, number + 2, place=Place("1"), priority=0))
        wait_until(lambda: len(outputs) == 900)
        assert not runner.runs()
    assert most["lone"] == 1
    assert most["twins"] <= 4


def test_a_job_that_turns_out_a_suspect_in_one_stream_runs_in_no_other() -> None:
    """Two threads hold batches of it when the first is told: both go back, and each then runs with nobody beside it."""
    device, both = Device2(), threading.Barrier(2)
    model = model_of(Asks(device.ask), streams=2)
    first = [True]

    def claim(units: list[Unit], stopped: Any, call: bool = False, solo: bool = False) -> Claimed:
        if first[0]:
            both.wait(10)  # both batches are taken, and neither is known to be a suspect's
            first[0] = False
        suspects = set() if solo else {unit.work for unit in units if unit.work.job_id == "j"}
        return Claimed([unit for unit in units if unit.work not in suspects], suspects)

    job = units_of(model, "j")
    job += [Unit(job[0].work, 0, chunk, Prepared(f"j{chunk}"), job[0].budget) for chunk in (1, 2)]
    with running(threads=2, limit=lambda: 2) as (runner, outputs):
        runner._claimer.claim = claim  # type: ignore[method-assign]
        runner.put([*job, *units_of(model, "a", "b")])
        device.may_end.release(5)
        wait_until(lambda: len(outputs) == 5)
    assert all(len(together) == 1 for together in device.seen if any(str(one).startswith("j") for one in together))


class Quick(Asks):
    """As one whose items take no time beside the device."""

    quick = True


@contextmanager
def offered_to(handler: Asks, **more: Any) -> Iterator[tuple[Runner, Delivered, Callable[..., Work], list[str]]]:
    """A runner that prepares what it is offered, what it delivers, jobs for it, and the threads that prepared."""
    delivered, threads, model = Delivered(), list[str](), model_of(handler, streams=2)

    def prepare(work: Work) -> None:
        threads.append(threading.current_thread().name)
        runner.put([Unit(work, 0, 0, Prepared(work.job_id), Budget(8, 1000))])

    def job(name: str) -> Work:
        work = Work(name, name, REF, keys.NORMAL, request=None, model=model)
        work.items, work.open_items = [Item(outputs=[None], missing=1)], 1
        return work

    runner = runner_of(delivered, threads=2, limit=lambda: 2, prepare=prepare, **more)
    runner.start()
    try:
        yield runner, delivered, job, threads
    finally:
        runner.close()
        assert runner.join(10)


def test_what_is_alone_is_prepared_and_run_and_finished_in_one_thread() -> None:
    ran: list[int] = []

    def ask(batch: list[Any]) -> list[Any]:
        ran.append(threading.get_ident())
        return batch

    with offered_to(Quick(ask)) as (runner, delivered, job, _):
        for name in "abc":
            wait_until(lambda: runner.offer(job(name)))  # noqa: B023  # at once
            wait_until(lambda: name in delivered.outputs)  # noqa: B023  # likewise
    assert len({*ran}) == 1
    assert delivered.here == [True, True, True]


def test_what_has_company_is_prepared_and_finished_elsewhere() -> None:
    busy, go_on = threading.Event(), threading.Event()

    def ask(batch: list[Any]) -> list[Any]:
        busy.set()
        go_on.wait(10)
        return batch

    with offered_to(Quick(ask)) as (runner, delivered, job, threads):
        assert runner.offer(job("a"))
        assert busy.wait(10)
        assert not runner.offer(job("b")), "the device is not idle"
        runner.put(units_of(model_of(Quick(ask), streams=1), "c"))
        assert not runner.offer(job("d")), "something waits"
        go_on.set()
        wait_until(lambda: len(delivered.outputs) == 2)
    assert len(threads) == 1
    assert delivered.here == [False, True], "while one waits, the device is not kept from it"


def test_a_batch_of_several_is_finished_elsewhere() -> None:
    with offered_to(Quick(lambda batch: batch)) as (runner, delivered, _, _):
        runner.put(units_of(model_of(Quick(lambda batch: batch)), "a", "b", size=2))
        wait_until(lambda: len(delivered.outputs) == 2)
    assert delivered.here == [False]


def test_quick_is_not_said_for_who_does_it_his_own_way() -> None:
    class Same(Quick):
        pass

    class Own(Quick):
        def prepare(self, item: Any, parameters: Any) -> Prepared:
            return Prepared(item)

    assert Same.quick
    assert not Own.quick


def test_who_says_nothing_of_being_quick_is_finished_elsewhere() -> None:
    with offered_to(Asks(lambda batch: batch)) as (runner, delivered, job, _):
        assert runner.offer(job("a"))
        wait_until(lambda: "a" in delivered.outputs)
    assert delivered.here == [False]


def test_what_comes_while_one_is_prepared_runs_too() -> None:
    preparing, go_on = threading.Event(), threading.Event()
    delivered, model = Delivered(), model_of(Quick(lambda batch: batch), streams=2)

    def prepare(work: Work) -> None:
        preparing.set()
        go_on.wait(10)
        runner.put(units_of(model, work.job_id))

    runner = runner_of(delivered, threads=2, limit=lambda: 2, prepare=prepare)
    runner.start()
    try:
        assert runner.offer(Work("a", "a", REF, keys.NORMAL, request=None, model=model))
        assert preparing.wait(10)
        runner.put(units_of(model, "b"))
        wait_until(lambda: "b" in delivered.outputs)  # another thread sees to it
        go_on.set()
        wait_until(lambda: "a" in delivered.outputs)
    finally:
        runner.close()
        assert runner.join(10)


def test_what_is_offered_at_the_end_is_not_begun() -> None:
    delivered = Delivered()
    runner = runner_of(delivered, prepare=lambda work: pytest.fail("it goes back"))
    runner.close()
    assert not runner.offer(Work("a", "a", REF, keys.NORMAL, request=None))
