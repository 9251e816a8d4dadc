"""Kombu's Redis transport, made lossless; only `python -m worker` uses it, every URL and every producer stays stock.

Stock kombu pops a message in one command and files it as unacked in a second; what dies between loses it. Here one
script does both. Nobody polls: the drain connection has client-side tracking on, redirected to the connection that
the event loop watches, and the script's reads make Redis send one invalidation there at the next change of any of the
lists or of the registry, whoever made it
(https://redis.io/docs/latest/develop/reference/client-side-caching/). It names what has changed, so only those lists
are looked at, and those that held more than there was room for: what nothing was told of is as it was, and tracked. A
tick a second looks at all, so that a lost wake-up costs latency and never a message.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container
from typing import Any

import orjson
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as stock
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import SentinelConnectionPool

from shared import keys, messages, origin, scripts
from shared.follower import Follower
from shared.logs import Event, get_logger
from shared.primary import primary
from shared.redis_url import Address
from shared.sentinels import Sentinels
from shared.store import follower, may_pass, sentinel_options
from worker.compressed import open_body
from worker.holdings import Holdings, Started

logger = get_logger("worker")

# Of a connection. Kombu's own list has KeyError, which a message without a field raises.
_LOST = (RedisConnectionError, RedisTimeoutError, OSError)

_REPLY_TTL_MS = 10_000


class QoS(virtual.QoS):  # type: ignore[misc]  # kombu is not typed enough to check
    """Acks of messages that no finish script has forgotten already; collected, flushed once a tick."""

    restore_at_shutdown = False  # `Engine.drain` gives back what is held

    def ack(self, delivery_tag: str) -> None:
        """Any thread."""
        self.channel.holdings.ack(delivery_tag)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Celery rejects what it cannot read or does not know: to the dead letters, or back to its list."""
        holdings = self.channel.holdings
        (holdings.requeue if requeue else holdings.reject)(delivery_tag)
        super().ack(delivery_tag)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Leases are the presence thread's work."""


class Channel(stock.Channel):  # type: ignore[misc]  # kombu ships no types
    """One consuming channel. Event-loop thread only."""

    QoS = QoS
    holdings: Holdings  # set by `install`, as is the worker's name
    worker: str
    follower: Follower | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._look: set[str] | None = None  # the lists to look at; None: all
        self._lists: dict[str, int] = {}  # all of them, by their place: the most urgent first
        self._queues: list[str] = []  # whose lists these are
        self._drainer: Redis | None = None
        self._track: tuple[Any, ...] = ()
        super().__init__(*args, **kwargs)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous)
        return params | {"connection_class": primary(params["connection_class"], self.follower)}

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Kombu calls it once a (re)connection: set the wake-up up instead of blocking in BRPOP."""
        wake = self.client.connection
        if hasattr(wake._parser, "set_invalidation_push_handler"):  # RESP3; it would drop what it is told
            wake._parser.set_invalidation_push_handler(lambda told: told)
        wake.send_command("CLIENT", "ID")
        wake_id = wake.read_response()
        wake.send_command("SUBSCRIBE", "__redis__:invalidate")
        wake.read_response(push_request=True)
        if self._drainer is not None:
            self._drainer.close()
        self._drainer = self._create_client()
        self._drainer.connection = self._drainer.connection_pool.get_connection()  # tracking belongs to a connection
        if _server(self._drainer.connection) != _server(wake):
            raise RedisConnectionError("a failover came between the two connections")
        self._track = ("CLIENT", "TRACKING", "ON", "REDIRECT", wake_id, "NOLOOP")
        self._drainer.execute_command(*self._track)
        self._in_poll, self._brpop_sent_at, self._look = wake, None, None

    def _brpop_read(self, **options: Any) -> None:
        """The wake connection is readable."""
        wake = self.client.connection
        try:
            self._changed(wake.read_response(push_request=True))
            while wake.can_read(timeout=0):
                self._changed(wake.read_response(push_request=True))
        except _LOST:
            wake.disconnect()
            raise
        self.drain()

    def _changed(self, told: Any) -> None:
        """An invalidation: its last part are the keys; None: of all."""
        names = told[-1] if isinstance(told, list) else None
        for name in names if isinstance(names, list) else [b""]:
            key = name.decode(errors="replace")
            if key.startswith(keys.JOB):
                continue  # whose share was looked at when it was taken
            found = _list_of(key, self._lists)
            if found is None:
                self._look = None  # the registry, a pause, or whatever it is
            elif self._look is not None:
                self._look.add(found)

    def drain(self) -> None:
        """Flush acks; when messages wait and there is room, take them. Once a loop tick."""
        if not self._in_poll or self._drainer is None:
            return
        try:
            self._drain(_alive(self._drainer))
        except ResponseError as error:  # a disk or the replicas are in trouble: the connection is not, and nothing ran
            self._look = set()  # until the next tick
            logger.warning(Event.REDIS_LOST, step="drain", error=error)

    def _drain(self, drainer: Redis) -> None:
        self._flush(drainer)
        if self.holdings.changed:
            self.holdings.changed, self._look = False, None
        lists = self._to_look_at()
        self.holdings.wake_on_room = bool(lists)  # before it is looked at: what makes some from now on wakes us
        room = self.holdings.room(lists)
        if not any(room):
            return
        start_as = self.worker if self.holdings.may_start(lists) else ""
        asked = scripts.drain(lists, room, process=self.holdings.process, start_as=start_as)
        asked_at = time.monotonic()
        drained: scripts.Drained = scripts.run_on(drainer, asked)
        self._look = set(drained.left)
        self.holdings.wake_on_room = bool(drained.left)
        self.holdings.on_etag(drained.etag)
        for name in drained.waiting:
            self.holdings.on_waiting(name)
        pairs = zip(drained.tags, drained.messages, strict=True)
        started = Started(drained.started, asked_at) if drained.started else None
        taken = [held for tag, (list_name, raw) in pairs if (held := self._hold(tag, list_name, raw, started))]
        for number, (tag, list_name, message) in enumerate(taken):
            try:
                self.connection._deliver(message, keys.queue_of(list_name))
            except _LOST:
                for later, _, _ in taken[number:]:
                    self.holdings.requeue(later)
                raise
            except Exception as error:
                self._unreadable(tag, error, message)
                self.holdings.reject(tag)

    def _to_look_at(self) -> list[str]:
        """The most urgent first."""
        queues = list(self.active_queues)
        if queues != self._queues:
            names = keys.drained_lists(queues, messages.VERSION)
            self._queues, self._look = queues, None
            self._lists = {name: place for place, name in enumerate(names)}
        if self._look is None:
            return list(self._lists)
        return sorted(self._look, key=self._lists.__getitem__)

    def _hold(
        self, filed: bytes, list_name: str, raw: bytes, started: Started | None = None
    ) -> tuple[str, str, dict[str, Any]] | None:
        """The tag, the list, and what is to be delivered. What the script could read is not always JSON to Python
        (0x10, bytes that are no UTF-8): only the script's own word for the tag, `filed`, holds then."""
        try:
            message = orjson.loads(raw)
            _hide_instants(message["headers"])
            open_body(message)
            tag = filed.decode()
            message["properties"]["delivery_tag"] = tag
        except Exception as error:
            self._unreadable(filed.decode(errors="replace"), error, _broken(raw))
            self.holdings.refuse(filed)
            return None
        # A tag that is held is a redelivery of what this very process works on: its lease ran out meanwhile.
        items = messages.items_of(message["headers"])
        return (tag, list_name, message) if self.holdings.hold(tag, list_name, items, started=started) else None

    def _unreadable(self, tag: str, error: Exception, message: Any) -> None:
        """Whatever the script could read and Python or Celery cannot: to the dead letters, not to the next worker."""
        headers = message.get("headers") if isinstance(message, dict) else None
        names = origin.of_message(headers, tag).names()
        logger.error(Event.JOB_FAILED, **names, code="message_unreadable", error=type(error).__name__)

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """A reply lives no longer than kombu lets the list of the one who asked live (`reply_queue_expires`). Only that
        one's channel would know: what comes when it has just gone would stay for ever."""
        is_reply = queue.endswith(keys.REPLIES)
        if is_reply:
            self._expires[queue] = _REPLY_TTL_MS
        super()._put(queue, message, **kwargs)
        if is_reply:
            del self._expires[queue]

    def tick(self) -> None:
        """Once a second: look at all lists. That tracking is asked for again proves that both connections live."""
        self._look = None
        if self._drainer is None:
            return
        try:
            _alive(self._drainer).execute_command(*self._track)  # type: ignore[no-untyped-call]  # redis-py's
        except ResponseError as error:  # Redis has lost the wake connection
            raise RedisConnectionError(f"the wake-up is gone: {error}") from None

    def _flush(self, client: Redis) -> None:
        """What is said again after a lost connection is harmless."""
        held = self.holdings
        if requeued := list(held.requeued):
            scripts.run_on(client, scripts.give_back(requeued, process=held.process))
            self._look = None  # this connection is not told of its own changes, and the lists are tracked no more
            del held.requeued[: len(requeued)]
        for tag in list(held.rejected):
            self._bury(client, tag)
            held.rejected.remove(tag)
        if acked := list(held.acked):
            scripts.run_on(client, scripts.ack(acked, process=held.process))
            del held.acked[: len(acked)]

    def _bury(self, client: Redis, tag: str | bytes) -> None:
        try:
            scripts.run_on(client, scripts.bury(tag, "rejected"))
        except ResponseError as error:
            if may_pass(error):
                raise
            job_id = tag if isinstance(tag, str) else tag.decode(errors="replace")
            logger.error(Event.JOB_FAILED, job_id=job_id, step="bury", error=error)

    def close(self) -> None:
        """Kombu would block here until the wake connection speaks."""
        self._in_poll = None
        if self._drainer is not None:
            self._drainer.close()
            self._drainer = None
        super().close()


def _list_of(key: str, lists: Container[str]) -> str | None:
    """That of `lists` which a key is, or in whose place it is a lane, or has the turns of; None: none."""
    name = key.removeprefix(keys.TURNS)
    if key.startswith(keys.LANE):  # and behind the list's name the owner's
        name = key.removeprefix(keys.LANE)
        while name and name not in lists:
            name = name.rpartition(":")[0]
    return name if name in lists else None


def _broken(raw: bytes) -> Any:
    """What can be made out of a message that is not as it should be; None: nothing."""
    try:
        return json.loads(raw.decode(errors="replace"))
    except ValueError:
        return None


def _hide_instants(headers: dict[str, Any]) -> None:
    """Celery would judge a plain producer's `expires` and `eta` by this host's clock, and keep what is not to start yet
    in its memory, and our room; `adopt` judges by Redis TIME, and keeps it there."""
    for name, hidden in messages.HIDDEN.items():
        if headers.get(name) is not None:
            headers[hidden], headers[name] = headers[name], None


def _alive(drainer: Redis) -> Redis:
    """The same. Used after its connection is gone it would connect by itself, perhaps to another server, and there
    the number of our wake connection is somebody else's."""
    if drainer.connection is None or drainer.connection._sock is None:
        raise RedisConnectionError("the drain connection is gone")
    return drainer


def _server(connection: Any) -> tuple[str, int] | None:
    return (connection.host, connection.port) if hasattr(connection, "port") else None  # a Unix socket has none


class SentinelChannel(Channel, stock.SentinelChannel):  # type: ignore[misc]
    """The same, on the master that the sentinels name."""

    sentinels: Sentinels  # set by `install`

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> SentinelConnectionPool:
        params = self._connparams(asynchronous)
        del params["host"], params["port"]
        return SentinelConnectionPool(self.master_name, self.sentinels, **params)  # type: ignore[no-untyped-call]


class Poller(stock.MultiChannelPoller):  # type: ignore[misc]
    """Drains at the start of each loop turn."""

    def on_poll_start(self) -> None:
        """After kombu has (re)connected what it must."""
        super().on_poll_start()
        for channel in list(self._channels):
            if channel.active_queues:
                channel.drain()

    def maybe_refresh_binding_expiry(self) -> None:
        """As kombu's, in one line of the log where Redis takes no writes."""
        for channel in list(self._channels):
            try:
                channel.maybe_refresh_binding_expiry()
            except RedisError as error:
                logger.warning(Event.REDIS_LOST, step="bindings", error=error)

    def tick(self) -> None:
        """Once a second."""
        for channel in list(self._channels):
            if channel.active_queues and channel._in_poll:
                channel.tick()


def install(holdings: Holdings, *, on_tick: Callable[[], None], address: Address, worker: str = "") -> None:
    """From here on this process's redis URLs are served by the lossless transport. `on_tick` runs once a second in the
    event loop, whatever connections come and go. `worker`: its name; without one nothing starts with its take."""
    own = {
        "holdings": holdings,
        "worker": worker,
        "follower": follower(address),
        "sentinels": Sentinels(address.hosts, sentinel_options(address)),
    }
    plain = _transport(stock.Transport, type("Channel", (Channel,), own), on_tick)
    sentinel = _transport(stock.SentinelTransport, type("SentinelChannel", (SentinelChannel,), own), on_tick)
    TRANSPORT_ALIASES.update({"redis": lambda: plain, "rediss": lambda: plain, "sentinel": lambda: sentinel})
    logger.debug(Event.STARTED, transport="lossless")


def _transport(base: Any, channel: type[Channel], on_tick: Callable[[], None]) -> Any:
    class Transport(base):  # type: ignore[misc]
        Channel = channel

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.cycle = Poller()

        def register_with_event_loop(self, connection: Any, loop: Any) -> None:
            super().register_with_event_loop(connection, loop)
            loop.call_repeatedly(1.0, self.cycle.tick)
            loop.call_repeatedly(1.0, on_tick)

    return Transport
