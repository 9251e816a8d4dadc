"""What Celery is told of a job: started, succeeded, failed, revoked. Celery's state and events belong to its main
thread, so everything is run there, one wake-up of its loop for many jobs.

A wake-up takes a core from a forward that needs all of them, and who watches looks every few seconds: so what has been
told lately is followed by what comes next a moment later, dated by when it happened (worker/events.py)."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.worker import state as celery_state

from shared.logs import Event, get_logger
from shared.types import State
from worker.events import DatedDispatcher
from worker.work import Work

logger = get_logger("worker")

_EACH_S = 0.25


class JobFailed(Exception):
    """A job ended as failed; the text, which Flower shows, is its error code and message. Never a builtin error:
    Celery treats some of them specially (MemoryError kills its worker)."""


class Reporter:
    """Any thread calls, the main thread acts. `hurry`: whether Celery's loop has something to do as soon as a job ends,
    so that it is to be woken in any case."""

    def __init__(
        self, hurry: Callable[[], bool] = lambda: False, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = threading.Lock()
        self._pending: deque[Callable[[], None]] = deque()
        self._hurry, self._clock = hurry, clock
        self._hub: Any = None
        self._loop_thread: int | None = None
        self._woken = False
        self._until = float("-inf")  # the loop comes by itself until then

    def attach(self, hub: Any) -> None:
        """Celery's loop runs, in this thread: its `Hub`, whose `call_soon` wakes the poller."""
        self._hub, self._loop_thread = hub, threading.get_ident()

    def started(self, works: Iterable[Work]) -> None:
        """Claimed, about to run."""
        now = time.monotonic()
        for work in works:
            self._tell(work, partial(work.request.on_accepted, os.getpid(), now))

    def ended(
        self, work: Work, state: State | None, *, code: str = "", message: str = "", runtime_s: float = 0
    ) -> None:
        """The outcome stands in Redis. `state` None: the message was of no job."""
        if state is State.SUCCEEDED:
            self._tell(work, partial(work.request.on_success, (0, _result(work), runtime_s)))
        elif state is State.FAILED:
            self._tell(work, lambda: work.request.on_success((1, _failure(code, message), runtime_s)))
        elif state is State.CANCELED:
            self._tell(work, lambda: _revoked(work.request))
        else:
            self.forget(work)

    def forget(self, work: Work) -> None:
        """It is no longer in this worker's hands; Celery's events tell nothing of it."""
        self._later(lambda: celery_state.task_ready(work.request))  # by its id: before the job comes again

    def call(self, action: Callable[[], None]) -> None:
        """Run in the main thread, after all that was said before."""
        self._later(action)

    def passed(self, timeout: float) -> bool:
        """Whether the main thread has come by within so many seconds: what it was doing at the call is done."""
        here = threading.Event()
        self._later(here.set)
        return here.wait(timeout)

    def _tell(self, work: Work, action: Callable[[], None]) -> None:
        """Soon."""
        self._add(partial(_dated, work.request, time.time(), action), at_once=False)

    def _later(self, action: Callable[[], None]) -> None:
        self._add(action, at_once=True)

    def _add(self, action: Callable[[], None], *, at_once: bool) -> None:
        with self._lock:
            self._pending.append(action)
            wake = not self._woken and (at_once or self._clock() >= self._until or self._hurry())
            # In the loop's own thread nobody is woken: it looks when it has slept, unless another wakes it before.
            self._woken |= wake and threading.get_ident() != self._loop_thread
        if wake and self._hub is not None:
            self._hub.call_soon(self.run)

    def run(self) -> None:
        """Main thread, woken for it, and a while after it had something to do; also once a second, since Celery's loop
        forgets its callbacks and timers when it reconnects."""
        while True:
            with self._lock:
                actions, self._pending, self._woken = self._pending, deque(), False
            if not actions:
                return
            if self._hub is not None and self._clock() >= self._until:
                self._until = self._clock() + _EACH_S
                self._hub.call_later(_EACH_S, self.run)
            for action in actions:
                try:
                    action()
                except Exception as error:  # the outcome stands; only Celery's view of it is missing
                    logger.warning(Event.REPORT_FAILED, error=error)


def _dated(request: Any, at: float, action: Callable[[], None]) -> None:
    events = request._eventer
    with events.dated(at) if isinstance(events, DatedDispatcher) else nullcontext():
        action()


def _result(work: Work) -> str:
    """What Flower shows as the result, which leaves the output where it is."""
    return f"{work.ref} in a batch of {work.batch_size}"


def _failure(code: str, message: str) -> ExceptionInfo:
    try:
        raise JobFailed(f"{code}: {message}")
    except JobFailed as error:
        info = ExceptionInfo()
        info.exception = error  # its wrapper for pickling would be what Flower shows
        return info


def _revoked(request: Any) -> None:
    if not request._already_revoked:
        request._announce_revoked("revoked", False, None, False)
