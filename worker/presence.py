"""The life signs of a worker, from a thread with its own connection: a model that holds the interpreter for long, or
a busy event loop, must not cost the leases.

Every quarter of a lease: renew what is held, tell what is served (cards, this process), put back what dead workers
held. The health file's age is what `python -m worker healthcheck` looks at.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import redis

from shared import keys, scripts
from shared.logs import Event, get_logger
from shared.settings import Settings
from worker.holdings import Holdings
from worker.models import LoadedModel
from worker.vital import vital_thread

logger = get_logger("worker")


class Presence:
    """`start` when the models are warm; `stop` makes the worker vanish from Redis."""

    def __init__(
        self,
        client: redis.Redis,
        settings: Settings,
        holdings: Holdings,
        *,
        process: str,
        device: str,
        models: Iterable[LoadedModel],
        on_lost: Callable[[str], None],
        healthy: Callable[[], bool],
    ) -> None:
        self._client, self._settings, self._holdings = client, settings, holdings
        self._process, self._device, self._models = process, device, list(models)
        self._on_lost, self._healthy = on_lost, healthy
        self._started_at = time.time()
        self.started = False
        self._stop = threading.Event()
        self._thread = vital_thread("presence", self._loop)
        self.interval_s = min(settings.heartbeat_s, settings.lease_s / 4)
        # Shorter than the lease: who finds an expired lease must also find its holder gone.
        self._ttl_ms = int(settings.lease_s * 900)

    def start(self) -> None:
        """The first signs are there when this returns."""
        self.started = True
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Gone at once, not after the TTL."""
        self._stop.set()
        if self.started:
            self._thread.join(self.interval_s + 5)
        try:
            self._client.delete(keys.WORKER + self._process, *self._card_keys())
        except redis.RedisError as error:
            logger.warning(Event.REDIS_LOST, step="presence", error=str(error))
        self._settings.health_path().unlink(missing_ok=True)

    def beat(self) -> None:
        """One round of signs. Raises redis errors."""
        tags = self._holdings.tags()
        calls: list[scripts.Call[Any]] = [scripts.renew(tags)] if tags else []
        calls.append(scripts.restore_expired(lease_ms=int(self._settings.lease_s * 1000)))
        self._tell()
        replies = scripts.run(self._client, calls)
        if tags and not isinstance(replies[0], Exception):
            for tag in replies[0]:
                self._on_lost(tag)
        restored = replies[-1]
        if restored and not isinstance(restored, Exception):
            logger.warning(Event.JOB_RESTORED, jobs=len(restored))
        if self._healthy():
            touch(self._settings.health_path())

    def _tell(self) -> None:
        pipe = self._client.pipeline(transaction=False)
        pipe.set(keys.WORKER + self._process, orjson.dumps(self._sign()), px=self._ttl_ms)
        for model in self._models:
            card = model.card()
            schemas = {name: card[name] for name in ("task", "input_schema", "parameters_schema")}
            told = orjson.dumps(card | {"worker": self._settings.worker_name}, default=str)
            pipe.set(keys.card_key(str(model.ref), self._settings.worker_name), told, px=self._ttl_ms)
            pipe.set(keys.SCHEMA + str(model.ref), orjson.dumps(schemas), ex=keys.SCHEMA_TTL_S)
        pipe.execute()

    def _sign(self) -> dict[str, Any]:
        return {
            "process": self._process,
            "worker": self._settings.worker_name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "device": self._device,
            "started_at": self._started_at,
            "refs": [str(model.ref) for model in self._models],
            "held": len(self._holdings),
            "state": "ready" if self._healthy() else "stalled",
        }

    def _card_keys(self) -> list[str]:
        return [keys.card_key(str(model.ref), self._settings.worker_name) for model in self._models]

    def _loop(self) -> None:
        while not self._stop.wait(self.interval_s):
            try:
                self.beat()
            except redis.RedisError as error:
                logger.warning(Event.LEASE_RENEWAL_FAILED, error=str(error))


def touch(path: Path) -> None:
    """Set the file's time to now."""
    path.touch()
    os.utime(path)
