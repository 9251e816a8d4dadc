"""When Celery's loop is woken to hear of a job, and what it hears of when that was. By a made clock and loop."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.events.dispatcher import EventDispatcher

from shared.catalog import Ref
from shared.types import State
from worker.events import DatedDispatcher
from worker.report import Reporter
from worker.work import Work


class Loop:
    """As kombu's Hub; `turn` runs what it was woken for, `pass_` lets time go by."""

    def __init__(self) -> None:
        self.now, self.woken, self.timers = 0.0, list[Callable[[], None]](), list[tuple[float, Callable[[], None]]]()

    def call_soon(self, action: Callable[[], None]) -> None:
        self.woken.append(action)

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        self.timers.append((self.now + delay_s, action))

    def turn(self) -> int:
        """How often it was woken."""
        woken, self.woken = self.woken, []
        for action in woken:
            action()
        return len(woken)

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        due = [action for at, action in self.timers if at <= self.now]
        self.timers = [(at, action) for at, action in self.timers if at > self.now]
        for action in due:
            action()


class Told:
    """A job's request of Celery's: what it was told, in order."""

    def __init__(self, events: Any = None) -> None:
        self.heard: list[str] = []
        self._eventer = events

    def on_accepted(self, pid: int, at: float) -> None:
        self.heard.append("started")
        if self._eventer:
            self._eventer.send("task-started")

    def on_success(self, result: Any) -> None:
        self.heard.append("succeeded")


def work_of(request: Any) -> Work:
    return Work("a", "a", Ref("m", "1"), 0, request)


def reporter_of(loop: Loop, hurry: Callable[[], bool] = lambda: False) -> Reporter:
    """Whose loop runs in another thread."""
    made = Reporter(hurry, clock=lambda: loop.now)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(made.attach, loop).result()
    return made


def test_what_comes_soon_after_something_was_told_wakes_nobody() -> None:
    loop, told = Loop(), Told()
    reporter = reporter_of(loop)
    reporter.started([work_of(told)])
    assert loop.turn() == 1
    assert told.heard == ["started"], "the first is told at once"
    loop.pass_(0.1)
    reporter.ended(work_of(told), State.SUCCEEDED)
    reporter.started([work_of(told)])
    assert loop.turn() == 0
    loop.pass_(0.15)
    assert told.heard == ["started", "succeeded", "started"], "in order, a quarter of a second after the first"
    loop.pass_(0.25)
    assert loop.timers == [], "nobody is looked after who tells nothing"
    reporter.ended(work_of(told), State.SUCCEEDED)
    assert loop.turn() == 1


def test_one_wake_up_is_enough_for_many() -> None:
    loop, told = Loop(), Told()
    reporter = reporter_of(loop, hurry=lambda: True)
    for _ in range(3):
        reporter.started([work_of(told)])
    assert loop.turn() == 1
    assert len(told.heard) == 3
    assert len(loop.timers) == 1
    reporter.started([work_of(told)])
    assert loop.turn() == 1, "messages wait for room"
    assert len(loop.timers) == 1


def test_what_is_to_be_done_is_done_at_once_and_in_order() -> None:
    loop, told = Loop(), Told()
    reporter = reporter_of(loop)
    reporter.started([work_of(told)])
    loop.turn()
    reporter.ended(work_of(told), State.SUCCEEDED)
    reporter.call(lambda: told.heard.append("called"))
    assert loop.turn() == 1
    assert told.heard == ["started", "succeeded", "called"]


def test_what_the_loop_itself_says_keeps_nobody_from_waking_it() -> None:
    """It is not woken by its own thread, and may be about to sleep."""
    loop, told = Loop(), Told()
    reporter = Reporter(clock=lambda: loop.now)
    reporter.attach(loop)
    reporter.call(lambda: None)
    with ThreadPoolExecutor(1) as other:
        other.submit(reporter.started, [work_of(told)]).result()
    assert len(loop.woken) == 2


def test_a_loop_that_forgets_its_timers_is_woken_again() -> None:
    """As Celery's does when it reconnects."""
    loop, told = Loop(), Told()
    reporter = reporter_of(loop)
    reporter.started([work_of(told)])
    loop.turn()
    loop.timers.clear()
    loop.pass_(0.3)
    reporter.ended(work_of(told), State.SUCCEEDED)
    assert loop.turn() == 1
    assert told.heard == ["started", "succeeded"]


def test_events_are_dated_by_when_it_was(monkeypatch: Any) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(EventDispatcher, "send", lambda self, type, **fields: sent.append(fields))
    wall = iter((100.0, 107.0))
    monkeypatch.setattr("worker.report.time", SimpleNamespace(time=lambda: next(wall), monotonic=lambda: 0.0))
    events, loop = DatedDispatcher(connection=None, enabled=False, app=Celery(set_as_current=False)), Loop()
    reporter = reporter_of(loop)
    for _ in range(2):
        reporter.started([work_of(Told(events))])
    loop.turn()
    events.send("worker-heartbeat")
    assert sent == [{"timestamp": 100.0}, {"timestamp": 107.0}, {}]
