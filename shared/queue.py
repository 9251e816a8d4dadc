"""The Celery app: one configuration for workers, Flower, `celery inspect` and plain producers who want to copy it."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from shared import keys
from shared.messages import TASK
from shared.redis_url import Address
from shared.settings import Settings
from shared.store import CONNECT_S, TIMEOUT_S, sentinel_options


def make_celery(settings: Settings, *, backend: type[Any] | None = None) -> Celery:
    """An app with the task `ml.predict` registered by name. Importing nothing heavy, connecting to nothing.
    `backend` replaces the stock result backend (the worker gives its own)."""
    app = Celery("ml", set_as_current=False)
    app.conf.update(_configuration(settings))
    address = settings.redis_address()
    app.conf.update(_broker(settings, address))
    if backend is None:
        app.conf.update(_results(address))
    else:
        app.backend_cls = backend

    # Not shared: Celery would give it to every other app of the process too, a backend's own among them.
    @app.task(name=TASK, bind=True, shared=False)  # type: ignore[untyped-decorator]  # celery ships no types
    def predict(self: Any, **kwargs: Any) -> None:
        """Runs in the batching pool of `python -m worker`, never here."""
        raise NotImplementedError("ml.predict is run by `python -m worker`, not by a stock Celery worker")

    return app


def _configuration(settings: Settings) -> dict[str, Any]:
    return {
        # Names of our own, so that a backend's own Celery may share the Redis.
        "task_default_queue": keys.INTAKE,
        "task_queues": [queue(keys.INTAKE)],
        "control_exchange": keys.CONTROL_EXCHANGE,
        "event_exchange": keys.EVENT_EXCHANGE,
        "event_queue_prefix": keys.EVENT_EXCHANGE,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Redis at maxmemory is a channel error to kombu; without this the worker would exit.
        "broker_channel_error_retry": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],  # no pickle anywhere
        "task_acks_late": True,
        "worker_prefetch_multiplier": 0,  # the transport counts room for each list
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # work in hand goes on
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_send_task_events": settings.task_events,
        "task_send_sent_event": False,
        "result_expires": int(settings.result_ttl_s),
        "event_queue_expires": 60,
        "event_queue_ttl": 5,
    }


def _broker(settings: Settings, address: Address) -> dict[str, Any]:
    return {
        "broker_url": address.stock_url(),
        "broker_use_ssl": address.tls or None,
        "broker_transport_options": {
            "priority_steps": list(keys.PRIORITIES),
            "queue_order_strategy": "priority",
            "visibility_timeout": settings.lease_s,
            # Only for a reader on the stock transport; ours names its keys in shared/keys.py.
            "unacked_key": "ml.stock.unacked",
            "unacked_index_key": "ml.stock.unacked_index",
            "unacked_mutex_key": "ml.stock.unacked_mutex",
            "socket_keepalive": True,
            "socket_timeout": TIMEOUT_S,
            "socket_connect_timeout": CONNECT_S,
            "health_check_interval": 10,
            **_sentinels(address),
        },
    }


def _results(address: Address) -> dict[str, Any]:
    return {
        "result_backend": address.stock_url(),
        "redis_backend_use_ssl": address.tls or None,
        "redis_socket_connect_timeout": CONNECT_S,
        "result_backend_transport_options": _sentinels(address),
    }


def _sentinels(address: Address) -> dict[str, Any]:
    if not address.master:
        return {}
    return {"master_name": address.master, "sentinel_kwargs": sentinel_options(address)}


def queue(name: str) -> Queue:
    """A queue with its own direct exchange and routing key: without them one message would reach every queue."""
    return Queue(name, Exchange(name, type="direct"), routing_key=name)
