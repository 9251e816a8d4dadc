"""Threads that the worker cannot live without."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import NoReturn

from shared import tracing
from shared.logs import Event, flush_logs, get_logger

logger = get_logger("worker")

EXIT_SOFTWARE = 70  # of sysexits.h; whoever runs the worker restarts it


def end_process(code: int) -> NoReturn:
    """At once, whatever other threads do; what was logged and traced is out, if that takes no time."""
    tracing.flush(tracing.LAST_WORDS_S)
    flush_logs()
    os._exit(code)


def vital_thread(name: str, loop: Callable[[], None]) -> threading.Thread:
    """A daemon thread, not yet started. An error that escapes `loop` ends the process: a worker that holds jobs and
    looks alive, but never finishes them, is worse than none, whose leases run out."""

    def guarded() -> None:
        try:
            loop()
        except BaseException as error:
            logger.error(Event.THREAD_DIED, thread=name, exc_info=error)
            end_process(EXIT_SOFTWARE)

    return threading.Thread(target=guarded, name=name, daemon=True)
