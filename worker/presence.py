"""The life signs of a worker, from a thread with its own connection: a model that holds the interpreter for long, or
a busy event loop, must not cost the leases.

Every `ML_HEARTBEAT_S`, and at least four times a lease: renew what is held, put back what dead workers held, tell what
is served (cards), look whether the registry has changed.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import redis

from shared import health, keys, scripts
from shared.catalog import Ref
from shared.logs import MOST_TOLD, Event, get_logger
from shared.settings import Settings
from worker.cards import place_card, told_device
from worker.device import Device
from worker.gpus import Readings
from worker.holdings import Holdings
from worker.memory import host_bytes
from worker.shelf import Shelf
from worker.vital import vital_thread

logger = get_logger("worker")

_REDIS_S = 15.0  # one round trip, connecting included, behind sentinels that do not answer


class Presence:
    """`start` when the models are warm; `stop` makes the worker vanish from Redis."""

    def __init__(
        self,
        client: redis.Redis,
        settings: Settings,
        holdings: Holdings,
        *,
        process: str,
        device: Device,
        shelf: Shelf,
        metrics_at: str | None,
        on_lost: Callable[[str], None],
        on_etag: Callable[[str], None],
        state: Callable[[], str],
        activity: Callable[[], dict[str, Any]],
        on_drain: Callable[[], None],
        mark: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`activity` is told with each sign of life; `on_drain` is called once, when somebody wants this worker to
        leave; `mark` is called before each step, with how long that may wait for Redis."""
        self._client, self._settings, self._holdings = client, settings, holdings
        self._process, self._device, self._shelf, self._metrics_at = process, device, shelf, metrics_at
        self._soon = threading.Event()
        self._on_lost, self._on_etag, self._state, self._mark = on_lost, on_etag, state, mark
        self._activity, self._on_drain = activity, on_drain
        self._readings = None if device.gpu is None else Readings(device.gpu.uuid)
        self._told_to_drain = False
        self._started_at = time.time()
        self._told: set[str] = set()
        self.started = False
        self._stop = threading.Event()
        self._thread = vital_thread("presence", self._loop)
        self.interval_s = interval_s(settings)
        self._ttl_ms = sign_ms(settings)

    def start(self) -> None:
        """The first signs are there when this returns, if Redis is."""
        self.started = True
        self._try_beat()
        self._thread.start()

    def stop(self) -> None:
        """Gone at once, not after the TTL."""
        self._stop.set()
        self._soon.set()
        if self.started:
            self._thread.join(self.interval_s + 5)
        try:
            self._client.zrem(keys.WORKERS, self._process)
            self._client.delete(keys.WORKER + self._process, *self._told | self._card_keys())
        except redis.RedisError as error:
            logger.warning(Event.REDIS_LOST, step="presence", error=error)

    def beat(self) -> None:
        """One round of signs. Raises redis errors."""
        self._mark(_REDIS_S)
        sign = orjson.dumps(self._sign())
        renew = scripts.renew(self._holdings.tags(), process=self._process, sign=sign, sign_ms=self._ttl_ms)
        for tag in scripts.one(scripts.run(self._client, [renew])):
            self._on_lost(tag)
        self._mark(_REDIS_S)
        # Not in the same trip: on a server that has forgotten the scripts it could run before the renewal.
        restore = scripts.restore_expired(
            lease_ms=int(self._settings.lease_s * 1000), heartbeat_ms=int(self.interval_s * 1000)
        )
        restored = scripts.one(scripts.run(self._client, [restore]))
        if restored:
            logger.warning(Event.JOB_RESTORED, jobs=len(restored), job_ids=restored[:MOST_TOLD])
        self._mark(_REDIS_S)
        self._tell()
        if not self._told_to_drain and self._client.exists(keys.DRAIN + self._process):
            self._told_to_drain = True
            logger.info(Event.WORKER_DRAINED, worker=self._settings.worker_name)
            self._on_drain()

    def _tell(self) -> None:
        """What is served. A Redis that is full refuses it; leases and signs of life are scripts that pass."""
        pipe = self._client.pipeline(transaction=False)
        cards = self._card_keys()
        if gone := self._told - cards:
            pipe.delete(*gone)
        self._told = cards
        for place in self._shelf.places():
            card = place_card(place, self._shelf.next_of(place.ref), device=self._device)
            told = orjson.dumps(card | {"worker": self._settings.worker_name}, default=str)
            pipe.set(keys.card_key(str(place.ref), self._settings.worker_name), told, px=self._ttl_ms)
            if place.kind is not None:
                schemas = {name: card[name] for name in ("task", "input_schema", "parameters_schema")}
                pipe.set(keys.SCHEMA + str(place.ref), orjson.dumps(schemas), ex=keys.SCHEMA_TTL_S)
        pipe.hget(keys.REGISTRY, "etag")
        try:
            self._on_etag((pipe.execute()[-1] or b"").decode())
        except redis.exceptions.OutOfMemoryError as error:
            logger.warning(Event.STORE_FULL, step="presence", error=error)

    def _sign(self) -> dict[str, Any]:
        return {
            "process": self._process,
            "worker": self._settings.worker_name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            **told_device(self._device),
            "started_at": self._started_at,
            "refs": [str(place.ref) for place in self._shelf.places()],
            "serves": self._settings.own_models,
            "metrics": self._metrics_at,
            "held": len(self._holdings),
            "state": self._state(),
            "memory_bytes": host_bytes(),
            "device_memory": self._device_memory(),
            **self._activity(),
        }

    def _device_memory(self) -> dict[str, int] | None:
        if self._readings is None:
            return None
        used, total = self._readings.memory_used_bytes(), self._readings.memory_total_bytes()
        return None if used is None or total is None else {"used_bytes": int(used), "total_bytes": int(total)}

    def _card_keys(self) -> set[str]:
        return {keys.card_key(str(place.ref), self._settings.worker_name) for place in self._shelf.places()}

    def nudge(self) -> None:
        """Something has changed that callers may want to know: beat now. Any thread."""
        self._soon.set()

    def _loop(self) -> None:
        while True:
            self._mark(max(0.0, self.interval_s - health.LONGEST_S / 3))
            self._soon.wait(self.interval_s)
            self._soon.clear()
            if self._stop.is_set():
                return
            self._try_beat()

    def _try_beat(self) -> None:
        try:
            self.beat()
        except redis.RedisError as error:
            logger.warning(Event.LEASE_RENEWAL_FAILED, error=error)


def tell_failed(client: redis.Redis, settings: Settings, *, process: str, ref: Ref, device: Device, error: str) -> None:
    """A version that does not load or warm up on this worker. Told for as long as a sign of life lasts: the process
    ends, and each new try tells it again."""
    worker, ttl_ms = settings.worker_name, sign_ms(settings)
    sign = {"process": process, "worker": worker, "state": "failed", "refs": [str(ref)]}
    card = {"model": ref.model, "version": ref.version, "state": "failed", "error": error[:500]}
    card |= {"worker": worker, **told_device(device)}
    try:
        renew = scripts.renew((), process=process, sign=orjson.dumps(sign), sign_ms=ttl_ms)
        scripts.one(scripts.run(client, [renew]))
        client.set(keys.card_key(str(ref), worker), orjson.dumps(card), px=ttl_ms)
    except redis.RedisError as lost:
        logger.warning(Event.REDIS_LOST, step="presence", error=lost)


def interval_s(settings: Settings) -> float:
    """Between two signs of life. A beat that hangs for as long (give the client that timeout) does not cost the lease:
    there is time for another."""
    return min(settings.heartbeat_s, settings.lease_s / 4)


def sign_ms(settings: Settings) -> int:
    """How long a sign of life lives. Shorter than the lease: who finds an expired lease must also find its holder
    gone."""
    return int(settings.lease_s * 900)
