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
    """Asked and cut from any thread."""

    host: str
    port: int

    def lives(self) -> bool:
        """Whether it is connected."""

    def cut(self) -> None:
        """Whoever uses it sees a lost connection."""


def follow(hosts: Sequence[Server], master: str, options: dict[str, Any]) -> Follower:
    """The process's own for these sentinels. `options` are redis-py's, for the sentinels."""
    with _lock:
        key = (tuple(hosts), master)
        if key not in _followers:
            _followers[key] = Follower(hosts, master, options)
        return _followers[key]


class Follower:
    """One thread, as long as there is a connection to watch. `watch` from any."""

    def __init__(self, hosts: Sequence[Server], master: str, options: dict[str, Any]) -> None:
        self._sentinels = [redis.Redis(host, port, **options) for host, port in hosts]
        self._name = master
        self._master: Server | None = None
        self._former: set[Server] = set()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._runs = False

    def watch(self, connection: Connection) -> None:
        """It has connected to its `host` and `port`."""
        with self._lock:
            self._connections.add(connection)
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._follow, name="follower", daemon=True).start()

    def _needed(self) -> bool:
        with self._lock:
            return any(one.lives() for one in self._connections)

    def _follow(self) -> None:
        while True:
            for sentinel in self._sentinels:
                if self._needed():
                    with contextlib.suppress(redis.RedisError, OSError):  # the next one, then
                        self._listen(sentinel)
            with self._lock:
                if not self._needed():
                    for sentinel in self._sentinels:
                        sentinel.close()
                    self._runs = False
                    return
            time.sleep(_EVERY_S)

    def _listen(self, sentinel: redis.Redis) -> None:
        with sentinel.pubsub(ignore_subscribe_messages=True) as news:
            news.subscribe(*_NEWS)
            while self._needed() and (master := server(sentinel.execute_command(*QUESTION, self._name))):
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
