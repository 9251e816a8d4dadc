"""Structured logs: one JSON object a line, one closed list of events, never a payload or a key.

`logger = get_logger("worker")`, then `logger.info(Event.JOB_FINISHED, job_id=..., state=...)`.
"""

from __future__ import annotations

import enum
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson


class Event(enum.StrEnum):
    """Every event that our processes log; alert on these."""

    STARTED = enum.auto()
    STOPPING = enum.auto()
    STOPPED = enum.auto()
    CONFIG_REFUSED = enum.auto()
    DEVICE_CLAIMED = enum.auto()
    MODEL_LOADING = enum.auto()
    MODEL_READY = enum.auto()
    MODEL_FAILED = enum.auto()
    MODEL_UNLOADED = enum.auto()
    MODEL_WAITS = enum.auto()
    MODEL_NOTE = enum.auto()
    REGISTRY_CHANGED = enum.auto()
    TRAFFIC_SWITCHED = enum.auto()
    VERSION_RETIRED = enum.auto()
    WORKER_READY = enum.auto()
    JOB_FAILED = enum.auto()
    JOB_ADOPTED = enum.auto()
    JOB_SKIPPED = enum.auto()
    JOB_RESTORED = enum.auto()
    JOBS_SWEPT = enum.auto()
    STRAYS_MENDED = enum.auto()
    LETTER_RETRIED = enum.auto()
    LETTER_DROPPED = enum.auto()
    BATCH_DONE = enum.auto()
    BATCH_FAILED = enum.auto()
    BATCH_HALVED = enum.auto()
    LEASE_LOST = enum.auto()
    LEASE_RENEWAL_FAILED = enum.auto()
    PREDICT_STALLED = enum.auto()
    DEVICE_LOST = enum.auto()
    THREAD_DIED = enum.auto()
    HEALTH_FILE_FAILED = enum.auto()
    REPORT_FAILED = enum.auto()
    STORE_FULL = enum.auto()
    REDIS_LOST = enum.auto()
    REDIS_BACK = enum.auto()
    REQUEST_FAILED = enum.auto()


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
            self._logger.log(level, event.value, extra={"fields": fields}, exc_info=exc_info)


def get_logger(name: str) -> Logger:
    """`name` is the process's part: api, worker, local."""
    return Logger(logging.getLogger(f"ml.{name}"))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in getattr(record, "fields", {}).items())
        line = f"{record.levelname:<7} {record.name} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logs(level: str, format: str) -> None:
    """Once a process, first thing in its main: everything to stderr in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("WARNING")
    logging.getLogger("ml").setLevel(level)
