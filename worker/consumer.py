"""Celery's consumer, with what it cannot read sent to the dead letters instead of dropped."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.control import Panel
from celery.worker.control import revoke as stock_revoke
from kombu.utils.functional import maybe_list

from shared import scripts


class DeadLetteringConsumer(Consumer):  # type: ignore[misc]  # celery ships no types
    """Main thread."""

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A body in a content type that we refuse (pickle), or one that is not what it says."""
        message.reject()

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Not a task message."""
        message.reject()

    def on_invalid_task(self, body: Any, message: Any, exc: Exception, **kwargs: Any) -> None:
        """A task message of a wrong shape."""
        message.reject()


def install_revoke() -> None:
    """`control.revoke` (and Flower's button) is a cancel of ours: queued jobs end, running ones are marked.
    Stock Celery would write REVOKED over a running job's record, or ignore it."""

    def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
        """Revoke task by task id (or list of ids)."""
        ids = [str(one) for one in maybe_list(task_id) or []]
        scripts.run(state.app.backend.client, [scripts.cancel(one) for one in ids])
        # The rest (the set of revoked ids, terminate) stays Celery's.
        return stock_revoke(state, ids, terminate=terminate, signal=signal, **kwargs)

    Panel.data["revoke"] = revoke
