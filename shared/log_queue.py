"""Log lines are formatted and written by a thread of their own, so that a slow stderr holds up neither the event loop
nor the device. The queue is bounded: what does not fit is dropped and counted, nobody ever waits."""

from __future__ import annotations

import logging
import logging.handlers
import queue
import threading
from typing import Any

from shared.log_lines import settle

MOST = 10_000  # lines that wait to be written


class Inlet(logging.handlers.QueueHandler):
    """The one handler of the process's loggers. Any thread, also in a destructor: a SimpleQueue takes no lock of
    Python's, so it cannot wait for itself."""

    def __init__(self, lines: queue.SimpleQueue[Any], most: int = MOST) -> None:
        super().__init__(lines)
        self._lines, self._most = lines, most
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Nothing of the caller's is held longer than this call."""
        return settle(record)

    def enqueue(self, record: logging.LogRecord) -> None:
        """Under the handler's lock."""
        if self._lines.qsize() >= self._most:
            self._dropped += 1
        else:
            self._lines.put(record)

    def taken(self) -> int:
        """How many lines were dropped since it was asked last."""
        assert self.lock is not None  # noqa: S101  # a handler has one
        with self.lock:
            dropped, self._dropped = self._dropped, 0
        return dropped


class Outlet(logging.handlers.QueueListener):
    """Writes what the inlet took, in a daemon thread."""

    def __init__(self, inlet: Inlet, out: logging.Handler, dropped: logging.LogRecord) -> None:
        """`dropped` is the line that tells of lines that were, without their number."""
        super().__init__(inlet.queue, out)
        self._inlet, self._out, self._told = inlet, out, dropped

    def handle(self, record: Any) -> None:
        """A line, or somebody who waits for those before."""
        if isinstance(record, threading.Event):
            record.set()
            return
        self._out.handle(record)
        if lines := self._inlet.taken():
            told = logging.makeLogRecord(self._told.__dict__ | {"created": record.created, "fields": {"lines": lines}})
            self._out.handle(told)

    def flush(self, timeout_s: float) -> bool:
        """Whether all that was said before is written, after at most so many seconds."""
        written = threading.Event()
        self.queue.put_nowait(written)
        return written.wait(timeout_s)
