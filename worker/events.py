"""Celery's events, dated by what they tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.events.dispatcher import EventDispatcher


class DatedDispatcher(EventDispatcher):  # type: ignore[misc]  # celery ships no types
    """Main thread. What has happened on another is told a moment later (worker/report.py), with the time of then."""

    _at: float | None = None

    @contextmanager
    def dated(self, at: float) -> Iterator[None]:
        """What is sent meanwhile was so `at` that time (seconds since the epoch)."""
        self._at = at
        try:
            yield
        finally:
            self._at = None

    def send(self, type: str, *args: Any, **fields: Any) -> Any:  # Celery's name
        """As Celery's."""
        if self._at is not None:
            fields.setdefault("timestamp", self._at)
        return super().send(type, *args, **fields)
