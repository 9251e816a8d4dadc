"""Celery's pool interface in front of the engine: what Celery would run, we batch.

https://docs.celeryq.dev/en/stable/userguide/workers.html (custom pools, `worker_pool`)
"""

from __future__ import annotations

from typing import Any

from celery.concurrency.base import BasePool

from worker.engine import Engine


class BatchPool(BasePool):  # type: ignore[misc]  # celery ships no types
    """Main thread. One worker process, one device: its concurrency is 1, its batches are many."""

    task_join_will_block = False
    engine: Engine  # set by `python -m worker`

    def on_apply(self, target: Any, args: Any = None, kwargs: Any = None, callback: Any = None, **options: Any) -> None:
        """`callback` is a bound method of Celery's Request; the engine takes the request from there. (The consumer
        knows no task but ours, and those that a model stands for.)"""
        self.engine.accept(callback.__self__)

    def register_with_event_loop(self, loop: Any) -> None:
        """The loop exists: from now on the engine's threads may speak to Celery."""
        self.engine.reporter.attach(loop)

    def flush(self) -> None:
        """A lost connection. Nothing is dropped: the leases are the process's, not the connection's."""

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """A kernel cannot be interrupted; the job is marked as canceled and its output dropped."""

    def on_stop(self) -> None:
        """The engine was drained before Celery was told to stop."""

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return info | self.engine.info()
