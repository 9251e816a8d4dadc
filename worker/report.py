"""What Celery is told of a job: started, succeeded, failed, revoked. Celery's state and events belong to its main
thread, so everything is run there, one wake-up of its loop for many jobs."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.worker import state as celery_state

from shared.logs import Event, get_logger
from shared.types import State
from worker.work import Work

logger = get_logger("worker")


class JobFailed(Exception):
    """A job ended as failed; the text, which Flower shows, is its error code and message. Never a builtin error:
    Celery treats some of them specially (MemoryError kills its worker)."""


class Reporter:
    """Any thread calls, the main thread acts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: deque[Callable[[], None]] = deque()
        self._call_soon: Callable[[Callable[[], None]], Any] | None = None

    def attach(self, call_soon: Callable[[Callable[[], None]], Any]) -> None:
        """Celery's loop runs: its `Hub.call_soon`, which wakes the poller."""
        self._call_soon = call_soon

    def started(self, works: Iterable[Work]) -> None:
        """Claimed, about to run."""
        now = time.monotonic()
        for work in works:
            self._later(partial(work.request.on_accepted, os.getpid(), now))

    def ended(
        self, work: Work, state: State | None, *, code: str = "", message: str = "", runtime_s: float = 0
    ) -> None:
        """The outcome stands in Redis. `state` None: the message was of no job."""
        if state is State.SUCCEEDED:
            self._later(partial(work.request.on_success, (0, _result(work), runtime_s)))
        elif state is State.FAILED:
            self._later(lambda: work.request.on_success((1, _failure(code, message), runtime_s)))
        elif state is State.CANCELED:
            self._later(lambda: _revoked(work.request))
        else:
            self.forget(work)

    def forget(self, work: Work) -> None:
        """It is no longer in this worker's hands; Celery's events tell nothing of it."""
        self._later(lambda: celery_state.task_ready(work.request))

    def call(self, action: Callable[[], None]) -> None:
        """Run in the main thread, after all that was said before."""
        self._later(action)

    def passed(self, timeout: float) -> bool:
        """Whether the main thread has come by within so many seconds: what it was doing at the call is done."""
        here = threading.Event()
        self._later(here.set)
        return here.wait(timeout)

    def _later(self, action: Callable[[], None]) -> None:
        with self._lock:
            self._pending.append(action)
            wake = len(self._pending) == 1
        if wake and self._call_soon is not None:
            self._call_soon(self.run)

    def run(self) -> None:
        """Main thread, woken for it; also once a second, since Celery's loop forgets its callbacks when it
        reconnects."""
        while True:
            with self._lock:
                actions, self._pending = self._pending, deque()
            if not actions:
                return
            for action in actions:
                try:
                    action()
                except Exception as error:  # the outcome stands; only Celery's view of it is missing
                    logger.warning(Event.REPORT_FAILED, error=error)


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
