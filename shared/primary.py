"""Connections that follow the primary: after a failover, of Sentinel or behind one name, everybody connects again by
itself. redis-py's own classes, with what they leave out; kombu's connections get the same (worker/transport.py)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Any

import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, ReadOnlyError

from shared.follower import Follower

_DEMOTED = (ReadOnlyError, MasterDownError)
_PACKER = redis.connection.HiredisRespSerializer()
_FEW = 8  # arguments; a SET of a payload has five


def primary(base: type[Any], follower: Follower | None = None) -> type[Any]:
    """A connection class of redis-py for one pool, whose server must be the primary. One that has become a replica
    answers on; here that is a lost connection, for all of the pool, so that nobody writes to it for ever, or reads
    what is old. `follower`, for a class whose server sentinels name, cuts its connections when they name another."""
    bases = (_Primary, base) if follower is None else (_Followed, _Primary, base)
    return type(base.__name__, bases, {"follower": follower})


def aprimary(base: type[Any], follower: Follower | None = None) -> type[Any]:
    """As `primary`, of redis.asyncio."""
    bases = (_AsyncPrimary, base) if follower is None else (_AsyncFollowed, _AsyncPrimary, base)
    return type(base.__name__, bases, {"follower": follower})


class _Primary(redis.connection.AbstractConnection):
    _demoted_at = _connected_at = float("-inf")

    def connect(self) -> None:
        """Whoever takes a connection from the pool calls it."""
        if self._sock is not None and self._connected_at < type(self)._demoted_at:
            self.disconnect()
        if self._sock is None:
            self._connected_at = time.monotonic()
        super().connect()

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except _DEMOTED as error:
            type(self)._demoted_at = time.monotonic()
            self.disconnect()
            raise RedisConnectionError(f"the server is no longer the primary: {error}") from None

    def send_packed_command(self, command: Any, check_health: bool = True) -> Any:
        if self._sock is None:
            self.connect()  # redis-py would go to the last address, without asking the sentinels for the new one
        return super().send_packed_command(command, check_health)


class _Followed(redis.sentinel.SentinelManagedConnection):
    follower: Follower

    def connect_to(self, address: Any) -> None:
        super().connect_to(address)
        self.follower.watch(self)

    def lives(self) -> bool:
        return self._sock is not None

    def cut(self) -> None:
        """The socket's own method also where it speaks TLS: the state of that is its user's."""
        if (sock := self._sock) is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _AsyncPrimary(redis.asyncio.connection.AbstractConnection):
    _demoted_at = _connected_at = float("-inf")

    def pack_command(self, *args: Any) -> list[bytes]:
        """In C, as redis-py itself does for connections that are not asynchronous: a submit has forty arguments. The
        few that may be large are not copied."""
        packed: list[bytes] = _PACKER.pack(*args) if len(args) > _FEW else super().pack_command(*args)
        return packed

    async def connect(self) -> None:
        if self.is_connected and self._connected_at < type(self)._demoted_at:
            await self.disconnect()
        if not self.is_connected:
            self._connected_at = time.monotonic()
        await super().connect()
        self._parser.set_pubsub_push_handler(_as_it_is)  # type: ignore[attr-defined]  # all but the base have it

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except _DEMOTED as error:
            type(self)._demoted_at = time.monotonic()
            await self.disconnect()
            raise RedisConnectionError(f"the server is no longer the primary: {error}") from None

    async def send_packed_command(self, command: Any, check_health: bool = True) -> Any:
        if not self.is_connected:
            await self.connect()
        return await super().send_packed_command(command, check_health)


async def _as_it_is(push: Any) -> Any:
    """In the place of redis-py's own, which writes all that is published out as text for a debug line of its log."""
    return push


class _AsyncFollowed(redis.asyncio.sentinel.SentinelManagedConnection):
    follower: Follower

    async def connect_to(self, address: Any) -> None:
        self._home = asyncio.get_running_loop()
        await super().connect_to(address)
        self.follower.watch(self)

    def lives(self) -> bool:
        return bool(self.is_connected)

    def cut(self) -> None:
        """In its own loop."""
        with contextlib.suppress(RuntimeError):  # which has ended
            self._home.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
