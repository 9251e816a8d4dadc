"""Celery's consumer, with what it cannot read sent to the dead letters instead of dropped, and quicker to be back
after a lost connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from celery.exceptions import NotRegistered
from celery.worker.consumer import Consumer
from celery.worker.control import Panel
from celery.worker.control import revoke as stock_revoke
from celery.worker.control import stats as stock_stats
from kombu.utils.functional import maybe_list

from shared import origin, scripts
from shared.logs import Event, get_logger
from shared.messages import TASK
from shared.store import RETRY_S

logger = get_logger("worker")

_EVENTS_AT_ONCE, _EVENTS_EACH_S = 512, 0.25


class DeadLetteringConsumer(Consumer):  # type: ignore[misc]  # celery ships no types
    """Main thread."""

    _again_at = 0.0
    _flush_at = float("-inf")
    _clock = staticmethod(time.monotonic)

    def ensure_connected(self, conn: Any) -> Any:
        """Celery would wait 2 s before it tries again, then 4, 6 and so on up to 30; a failover takes about two."""
        conn.ensure_connection = partial(conn.ensure_connection, interval_start=0.2, interval_step=0.2, interval_max=1)
        return super().ensure_connected(conn)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """A server that can be reached but takes no writes (a replica that is to be promoted) would be connected to
        again and again."""
        if time.monotonic() < self._again_at:
            time.sleep(RETRY_S)
        self._again_at = time.monotonic() + 2 * RETRY_S
        super().on_connection_error_after_connected(exc)

    def update_strategies(self) -> None:
        """Of our task alone, and of the names that models stand for. Celery's own (celery.chord_unlock,
        celery.backend_cleanup, celery.map ...) are registered in every app; here they are unknown."""
        super().update_strategies()
        self.strategies: dict[str, Any] = _Strategies(self.strategies[TASK], self.pool.engine.takes)

    def on_send_event_buffered(self) -> None:
        """Celery would send its events two dozen at a time, and what there is at each turn of its loop. Who watches
        looks every few seconds, and a message costs Redis, Flower and this process more than the events in it."""
        if self.event_dispatcher:
            self.event_dispatcher.buffer_limit = _EVENTS_AT_ONCE
        now = self._clock()
        if self.hub and now >= self._flush_at:
            self._flush_at = now + _EVENTS_EACH_S
            self.hub.call_later(_EVENTS_EACH_S, self._flush_events)

    def flush_events(self) -> None:
        """What is still to be told, at once."""
        if self.event_dispatcher:
            self._flush_events()

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A body in a content type that we refuse (pickle), or one that is not what it says."""
        _refuse(message)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Not a task message."""
        _refuse(message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """As stock Celery, but for its log: that quotes the message's body."""
        headers = message.headers if "task" in message.headers else message.payload  # protocol 1
        job_id, name = headers["id"], headers["task"]
        names = origin.of_message(headers, job_id).names()
        logger.error(Event.JOB_FAILED, **names, code="unknown_task", task=str(name)[:100])
        message.reject()
        request = SimpleNamespace(
            name=name,
            chord=None,
            root_id=headers.get("root_id"),
            correlation_id=message.properties.get("correlation_id"),
            reply_to=message.properties.get("reply_to"),
            errbacks=None,
        )
        self.app.backend.mark_as_failure(job_id, NotRegistered(name), request=request)
        if self.event_dispatcher:
            self.event_dispatcher.send("task-failed", uuid=job_id, exception=f"NotRegistered({name!r})")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception, **kwargs: Any) -> None:
        """A task message of a wrong shape."""
        _refuse(message)


class _Strategies(dict[str, Any]):
    """By a task's name, looked up with each message: models come and go."""

    def __init__(self, ours: Any, takes: Callable[[str], bool]) -> None:
        super().__init__({TASK: ours})
        self._takes = takes

    def __missing__(self, name: Any) -> Any:
        if isinstance(name, str) and self._takes(name):
            return self[TASK]
        raise KeyError(name)


def _refuse(message: Any) -> None:
    names = origin.of_message(message.headers, message.delivery_tag).names()
    logger.error(Event.JOB_FAILED, **names, code="message_unreadable")
    message.reject()


def install_controls() -> None:
    """`control.revoke` (and Flower's button) is a cancel of ours: queued jobs end, running ones are marked.
    Stock Celery would write REVOKED over a running job's record, or ignore it. `inspect stats` (and Flower's page of a
    worker) tells no password: stock Celery's has those of a Unix socket's URL and of the sentinels."""

    def stats(state: Any, **kwargs: Any) -> Any:
        """Request worker statistics/information."""
        told = stock_stats(state, **kwargs)
        broker = {name: told["broker"].get(name) for name in ("transport", "hostname", "port", "virtual_host")}
        return told | {"broker": broker | {"hostname": str(broker["hostname"]).rpartition("@")[2]}}

    def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
        """Revoke task by task id (or list of ids)."""
        ids = [str(one) for one in maybe_list(task_id) or []]
        scripts.run(state.app.backend.client, [scripts.cancel(one) for one in ids])
        # The rest (the set of revoked ids, terminate) stays Celery's.
        return stock_revoke(state, ids, terminate=terminate, signal=signal, **kwargs)

    Panel.data.update({"revoke": revoke, "stats": stats})
