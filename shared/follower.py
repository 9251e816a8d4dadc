"""Who is the master now, told at once: a server that has been replaced need not be dead. For some ten seconds after a
failover the old one may go on taking writes that the new one overwrites, and a host that is gone without a word keeps
its connections open. So a thread of each process listens to the sentinels, and cuts the connections to the old one."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import redis

from shared.sentinels import QUESTION, Server, server

_EVERY_S = 1.0  # also without news: a message may have been lost
_NEWS = ("+promoted-slave", "+switch-master")

_followers: dict[tuple[Any, ...], Follower] = {}
_lock = threading.Lock()


class Connection(Protocol):
    """`cut` from any thread: whoever uses it sees a lost connection."""

    host: str
    port: int

    def cut(self) -> None:
        """Now."""


def follow(hosts: Sequence[Server], master: str, options: dict[str, Any]) -> Follower:
    """The process's own for these sentinels; its thread runs. `options` are redis-py's, for the sentinels."""
    with _lock:
        key = (tuple(hosts), master)
        if key not in _followers:
            _followers[key] = Follower(hosts, master, options)
        return _followers[key]


class Follower:
    """One thread. `watch` from any."""

    def __init__(self, hosts: Sequence[Server], master: str, options: dict[str, Any]) -> None:
        self._sentinels = [redis.Redis(host, port, **options) for host, port in hosts]
        self._name = master
        self._master: Server | None = None
        self._former: set[Server] = set()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._lock = threading.Lock()
        threading.Thread(target=self._forever, name="follower", daemon=True).start()

    def watch(self, connection: Connection) -> None:
        """It has connected to its `host` and `port`."""
        with self._lock:
            self._connections.add(connection)

    def _forever(self) -> None:
        while True:
            for sentinel in self._sentinels:
                with contextlib.suppress(redis.RedisError):  # the next one, then
                    self._listen(sentinel)
            time.sleep(_EVERY_S)

    def _listen(self, sentinel: redis.Redis) -> None:
        with sentinel.pubsub(ignore_subscribe_messages=True) as news:
            news.subscribe(*_NEWS)
            while (master := server(sentinel.execute_command(*QUESTION, self._name))) is not None:
                self._look(master)
                news.get_message(timeout=_EVERY_S)

    def _look(self, master: Server) -> None:
        if self._master is not None:
            self._former.add(self._master)
        self._former.discard(master)
        self._master = master
        with self._lock:
            stale = [one for one in self._connections if (one.host, one.port) in self._former]
        for one in stale:
            one.cut()
