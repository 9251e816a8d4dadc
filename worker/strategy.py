"""How a message becomes a request of Celery's: what its default strategy does (celery/worker/strategy.py), in a third
of the time, for what our API writes. Everything else goes the stock way.

Ours has no `eta` and no `expires` that Celery is to judge, no rate limit and no time limit (see worker/transport.py),
and its body is JSON; so there is no timer, no bucket, and one parse.
"""

from __future__ import annotations

from typing import Any

import orjson
from celery import signals
from celery.worker.request import Request, create_request_cls
from celery.worker.state import task_reserved
from celery.worker.strategy import default


def batching(task: Any, app: Any, consumer: Any, **kwargs: Any) -> Any:
    """A `Task.Strategy`; main thread. Celery's revoked set, events, `inspect` and late acknowledgement are kept."""
    stock = default(task, app, consumer, **kwargs)
    eventer, revoked = consumer.event_dispatcher, consumer.controller.state.revoked
    make = create_request_cls(Request, task, consumer.pool, consumer.hostname, eventer, app=app)
    accept = consumer.pool.engine.accept

    def received(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        payload = _own_payload(message)
        if payload is None:
            stock(message, body, ack, reject, callbacks)
            return
        request = make(
            message,
            # Called in the main thread only (worker/report.py), so neither waits for another turn of the loop.
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
            app=app,
            hostname=consumer.hostname,
            eventer=eventer,
            task=task,
            connection_errors=consumer.connection_errors,
            body=payload,
            headers=message.headers,
            decoded=True,
        )
        if request.id in revoked and request.revoked():
            return
        signals.task_received.send(sender=consumer, request=request)
        if eventer and eventer.enabled and task.send_events:
            eventer.send(
                "task-received",
                uuid=request.id,
                name=request.name,
                args=request.argsrepr,
                kwargs=request.kwargsrepr,
                root_id=request.root_id,
                parent_id=request.parent_id,
                retries=0,
                eta=None,
                expires=None,
            )
        task_reserved(request)
        accept(request)

    return received


def _own_payload(message: Any) -> list[Any] | None:
    """The body of a message that is ours; None for any other, and for one that only says so."""
    headers = message.headers
    if not isinstance(headers.get("ml"), int) or headers.get("eta") or headers.get("expires"):
        return None
    if message.content_type != "application/json":
        return None
    try:
        payload = orjson.loads(message.body)
    except orjson.JSONDecodeError:
        return None
    return payload if isinstance(payload, list) and len(payload) == len(("args", "kwargs", "embed")) else None
