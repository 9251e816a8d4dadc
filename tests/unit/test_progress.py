"""How far a job is: by what its handler tells of positions in its batch, and by the items that have ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import redis

from shared import keys, messages, scripts
from shared.catalog import Ref
from shared.errors import Fault
from shared.tasks import EchoParameters
from tests.conftest import wait_until
from worker.batcher import Budget
from worker.finisher import _fill
from worker.handler import Handler, ItemError, Listener, Prepared
from worker.handlers.echo import Echo
from worker.predict import predict
from worker.progress import ProgressTeller
from worker.stalls import HostCalls
from worker.work import Item, Unit, Work

REF = "echo@1"


def work_of(job_id: str, *chunks: int) -> tuple[Work, list[Unit]]:
    """A job with so many items, of so many chunks each."""
    work = Work(job_id, job_id, Ref("echo", "1"), keys.NORMAL, request=None)
    work.model = SimpleNamespace(handler=Echo())  # type: ignore[assignment]
    work.items = [Item(outputs=[None] * count, missing=count) for count in chunks]
    work.open_items = len(chunks)
    budget = Budget(8, 100)
    units = [Unit(work, n, chunk, Prepared(n), budget) for n, count in enumerate(chunks) for chunk in range(count)]
    return work, units


def run(store: redis.Redis, job_id: str, process: str = "p") -> None:
    """It is on this process's device."""
    raw = messages.build(job_id, queue="q", priority=keys.NORMAL, model="echo", version="1", input=[])
    numbers = {"deadline_ms": 60_000, "ttl_ms": 1000, "size": 1, "max_jobs": 99, "max_bytes": 999}
    fields: dict[str, str | int] = {"model": "echo", "version": "1"}
    calls: list[scripts.Call[Any]] = [
        scripts.submit(job_id, list_name="ml.echo.1", raw=raw, ref=REF, fields=fields, **numbers),
        scripts.drain(["ml.echo.1"], [1], process=process),
        scripts.claim([job_id], process=process, worker="w", max_attempts=3),
    ]
    for call in calls:
        scripts.one(scripts.run(store, [call]))


def told(store: redis.Redis, job_id: str) -> tuple[float | None, str | None] | None:
    raw = store.hget(keys.JOB + job_id, "progress")
    found = orjson.loads(raw) if raw else None
    return found and (found["fraction"], found["message"])


def test_a_fraction_is_over_all_items() -> None:
    work, units = work_of("a", 1, 2, 1)
    hear = ProgressTeller(redis.Redis(), "p").listener(units)
    assert work.fraction is None, "nobody has told"
    hear(0, 0, None)
    assert work.fraction == 0.0
    hear(0, 0.5, None)
    assert work.fraction == pytest.approx(0.5 / 3)
    hear(1, 0.5, None)  # of two chunks
    assert work.fraction == pytest.approx((0.5 + 0.25) / 3)
    _fill(units[1], "out", HostCalls())  # the first chunk is done
    assert work.fraction == pytest.approx((0.5 + 0.5) / 3)
    _fill(units[0], "out", HostCalls())
    assert work.fraction == pytest.approx((1 + 0.5) / 3)
    work.items[2].fault = Fault(message="no")
    assert work.fraction == pytest.approx((1 + 0.5 + 1) / 3)


def test_nothing_a_handler_says_breaks_anything() -> None:
    work, units = work_of("a", 1, 1)
    hear: Any = ProgressTeller(redis.Redis(), "p").listener(units)
    for position in (-1, 2, 1000):
        hear(position, 0.5, None)
    assert work.fraction is None
    for fraction in (float("nan"), float("inf"), "half", None, [1]):
        hear(0, fraction, None)
    assert work.fraction is None
    hear(0, 7, "x" * 10_000)
    hear(1, -1, 3)
    assert (work.fraction, len(work.message or "")) == (0.5, 500)


def test_the_last_word_goes_out_and_who_does_not_run_it_is_not_heard(store: redis.Redis) -> None:
    run(store, "mine")
    run(store, "others", process="q")
    teller = ProgressTeller(store, "p")
    mine, mine_units = work_of("mine", 1, 1)
    _, others_units = work_of("others", 1)
    hear, hear_others = teller.listener(mine_units), teller.listener(others_units)
    teller.start()
    hear_others(0, 0.5, "not mine any more")
    for n in range(101):
        hear(0, n / 100, f"step {n}")
    wait_until(lambda: told(store, "mine") == (0.5, "step 100"), what="the last word")
    assert told(store, "others") is None
    at = store.hget(keys.JOB + "mine", "progress_at")
    assert at is not None
    assert int(at) >= int(store.hget(keys.JOB + "mine", "started_at") or 0)
    hear(0, 0.1, "again")  # its batch was halved, and runs again
    wait_until(lambda: told(store, "mine") == (0.5, "again"), what="no step back")
    mine.ended = True
    hear(1, 0.9, "too late")
    hear_others(0, 0.9, None)
    wait_until(lambda: not teller._changed, what="all was looked at")
    assert told(store, "mine") == (0.5, "again")


def test_a_dozen_tellings_are_one_call(store: redis.Redis) -> None:
    """However often a handler tells, Redis hears of all jobs twice a second at most."""
    teller = ProgressTeller(store, "p")
    works = [work_of(f"job-{n}", 1) for n in range(20)]
    for job, _ in works:
        run(store, job.job_id)
    hears = [teller.listener(units) for _, units in works]
    before = store.info("commandstats")["cmdstat_hset"]["calls"]
    teller.start()
    for n in range(1, 501):
        for hear in hears:
            hear(0, n / 500, None)
    wait_until(lambda: all(told(store, job.job_id) == (1.0, None) for job, _ in works), what="the last words")
    assert store.info("commandstats")["cmdstat_hset"]["calls"] - before < 500, "of 10,000"


class Steps(Handler[Any, Any]):
    """Tells of each of its batch; raises for a negative one after that."""

    def predict(self, batch: list[int]) -> list[Any]:
        for position, value in enumerate(batch):
            self.progress(position, abs(value) / 10, f"item {value}")
        self.progress(-1, 1.0)
        self.progress(len(batch), 1.0)
        if min(batch) < 0:
            raise ValueError("negative")
        return batch


def test_positions_are_those_of_the_whole_batch_also_when_it_is_halved() -> None:
    heard: list[tuple[int, Any]] = []
    handler = Steps()
    model: Any = SimpleNamespace(handler=handler, ref=Ref("m", "1"), max_size=8, halved_batches=0)
    batch = [1, 2, -3, 4, 5]

    def listen(start: int, stop: int) -> Listener:
        def hear(position: int, fraction: float | None, message: str | None) -> None:
            if 0 <= position < stop - start:
                heard.append((start + position, message))

        return Listener(hear, lambda *_: None)

    outputs = predict(model, batch, listen=listen)
    assert [isinstance(output, ItemError) for output in outputs] == [False, False, True, False, False]
    inside = [(position, message) for position, message in heard if message is not None]
    assert {message: position for position, message in inside} == {f"item {v}": n for n, v in enumerate(batch)}
    assert all(message == f"item {batch[position]}" for position, message in inside)
    assert handler.hears is None, "a thread that tells too late is not heard"
    before = len(heard)
    handler.progress(0, 0.5)
    assert len(heard) == before


def test_echo_tells_of_its_sleep() -> None:
    heard: list[tuple[int, float | None]] = []
    handler = Echo()
    handler.hears = Listener(lambda position, fraction, message: heard.append((position, fraction)), lambda *_: None)
    long, short, none = [handler.prepare("x", EchoParameters(sleep_ms=sleep_ms)).item for sleep_ms in (500, 250, 0)]
    handler.predict([long, short, none])
    assert [fraction for position, fraction in heard if position == 0] == pytest.approx([n / 10 for n in range(1, 10)])
    assert max(fraction or 0 for position, fraction in heard if position == 1) >= 1
    assert not [position for position, _ in heard if position == 2]
    heard.clear()
    handler.predict([handler.prepare("x", EchoParameters(sleep_ms=20)).item])
    assert heard == [], "not for a blink"
