"""Structured logs: one JSON object a line, one closed list of events, never a payload or a key.

`logger = get_logger("worker")`, then `logger.info(Event.JOB_FAILED, job_id=..., code=...)`. An exception given as a
field is told by its type, and by its words only where they are Redis's or the system's; the request's id and the
job's are added where the line belongs to a request (shared/origin.py).
"""

from __future__ import annotations

import atexit
import enum
import logging
import queue
import sys
import threading
from typing import Any

from shared import origin
from shared.log_lines import JsonFormatter, TextFormatter, words
from shared.log_queue import Inlet, Outlet

MOST_TOLD = 64  # ids in one log line


class Event(enum.StrEnum):
    """Every event that our processes log; alert on these."""

    STARTED = enum.auto()
    STOPPING = enum.auto()
    STOPPED = enum.auto()
    CONFIG_REFUSED = enum.auto()
    DEVICE_CLAIMED = enum.auto()
    MODEL_LOADING = enum.auto()
    MODEL_CALIBRATED = enum.auto()
    MODEL_READY = enum.auto()
    MODEL_FAILED = enum.auto()
    MODEL_UNLOADED = enum.auto()
    MODEL_WAITS = enum.auto()
    MODEL_NOTE = enum.auto()
    REGISTRY_CHANGED = enum.auto()
    TRAFFIC_SWITCHED = enum.auto()
    VERSION_RETIRED = enum.auto()
    MODEL_PAUSED = enum.auto()
    MODEL_RESUMED = enum.auto()
    WORKER_READY = enum.auto()
    WORKER_DRAINED = enum.auto()
    JOB_FAILED = enum.auto()
    JOB_FELL_BACK = enum.auto()
    JOB_ADOPTED = enum.auto()
    JOB_SKIPPED = enum.auto()
    JOB_RESTORED = enum.auto()
    JOBS_PAUSED = enum.auto()
    JOBS_PURGED = enum.auto()
    JOBS_SWEPT = enum.auto()
    STRAYS_MENDED = enum.auto()
    LETTER_RETRIED = enum.auto()
    LETTER_DROPPED = enum.auto()
    BATCH_ACCEPTED = enum.auto()
    BATCH_DONE = enum.auto()
    BATCH_FAILED = enum.auto()
    BATCH_HALVED = enum.auto()
    LEASE_LOST = enum.auto()
    LEASE_RENEWAL_FAILED = enum.auto()
    HANDLER_STALLED = enum.auto()
    CALL_PUT_OFF = enum.auto()
    CALL_OVERDUE = enum.auto()
    DEVICE_LOST = enum.auto()
    THREAD_DIED = enum.auto()
    HEALTH_FILE_FAILED = enum.auto()
    REPORT_FAILED = enum.auto()
    LINK_FAILED = enum.auto()
    STORE_FULL = enum.auto()
    PAYLOADS_LOST = enum.auto()
    PAYLOADS_BACK = enum.auto()
    PAYLOADS_REAPED = enum.auto()
    OUTPUT_INLINE = enum.auto()
    REDIS_LOST = enum.auto()
    REDIS_BACK = enum.auto()
    WEBHOOK_DELIVERED = enum.auto()
    WEBHOOK_FAILED = enum.auto()
    WEBHOOK_GIVEN_UP = enum.auto()
    WEBHOOK_DISABLED = enum.auto()
    REQUEST = enum.auto()
    REQUEST_FAILED = enum.auto()
    TASK_FAILED = enum.auto()
    LOGS_DROPPED = enum.auto()
    TRACING_OFF = enum.auto()


class Logger:
    """A thin face over the standard library's logger that takes an Event and fields."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: Event, **fields: Any) -> None:
        """Log at DEBUG: what a developer asks for."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: Event, **fields: Any) -> None:
        """Log at INFO: what happened."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: Event, **fields: Any) -> None:
        """Log at WARNING: it works, but an operator should know."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: Event, *, exc_info: Any = None, **fields: Any) -> None:
        """Log at ERROR: somebody's work failed; `exc_info` as in `logging`."""
        self._log(logging.ERROR, event, fields, exc_info)

    def _log(self, level: int, event: Event, fields: dict[str, Any], exc_info: Any = None) -> None:
        if self._logger.isEnabledFor(level):
            told = origin.current().names() | {name: _told(value) for name, value in fields.items()}
            self._logger.log(level, event.value, extra={"fields": told}, exc_info=exc_info)


def _told(value: Any) -> Any:
    return words(value) if isinstance(value, BaseException) else value


def get_logger(name: str) -> Logger:
    """`name` is the process's part: api, worker, local."""
    return Logger(logging.getLogger(f"ml.{name}"))


_outlet: Outlet | None = None
FLUSH_S = 1.0


def configure_logs(level: str, format: str) -> None:
    """Once a process, first thing in its main: everything to stderr in one format, written by a thread of its own.
    Again: in another format. What ends a thread or the process, and Python's warnings, become lines too."""
    global _outlet  # noqa: PLW0603 - like logging's own root
    if _outlet is None:
        atexit.register(flush_logs)
    else:
        flush_logs()
        _outlet.stop()
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonFormatter() if format == "json" else TextFormatter(sys.stderr))
    inlet = Inlet(queue.SimpleQueue())
    dropped = {"name": "ml.logs", "levelname": "WARNING", "msg": Event.LOGS_DROPPED.value}
    _outlet = Outlet(inlet, out, logging.makeLogRecord(dropped))
    _outlet.start()
    root = logging.getLogger()
    root.handlers[:] = [inlet]
    root.setLevel("WARNING")
    logging.getLogger("ml").setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = lambda kind, error, trace: _crashed("main", error)
    threading.excepthook = lambda seen: _crashed(seen.thread.name if seen.thread else "", seen.exc_value)


def flush_logs(timeout_s: float = FLUSH_S) -> None:
    """What was said is written, if stderr takes it within the time. Before `os._exit`, which writes nothing."""
    if _outlet is not None:
        _outlet.flush(timeout_s)


def _crashed(thread: str, error: BaseException | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        return
    get_logger("process").error(Event.THREAD_DIED, thread=thread, exc_info=error)
