"""Connections that follow the primary: after a failover, of Sentinel or behind one name, everybody connects again by
itself. redis-py's own classes, with what they leave out; kombu's connections get the same (worker/transport.py)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, ReadOnlyError

_DEMOTED = (ReadOnlyError, MasterDownError)


def primary(base: type[Any]) -> type[Any]:
    """A connection class of redis-py, for a server that must be the primary. One that has become a replica answers
    on; here that is a lost connection, so that nobody writes to it for ever."""
    return type(base.__name__, (_Primary, base), {})


def aprimary(base: type[Any]) -> type[Any]:
    """As `primary`, of redis.asyncio."""
    return type(base.__name__, (_AsyncPrimary, base), {})


class _Primary(redis.connection.AbstractConnection):
    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except _DEMOTED as error:
            self.disconnect()
            raise RedisConnectionError(f"the server is no longer the primary: {error}") from None

    def send_packed_command(self, command: Any, check_health: bool = True) -> Any:
        if self._sock is None:
            self.connect()  # redis-py would go to the last address, without asking the sentinels for the new one
        return super().send_packed_command(command, check_health)


class _AsyncPrimary(redis.asyncio.connection.AbstractConnection):
    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except _DEMOTED as error:
            await self.disconnect()
            raise RedisConnectionError(f"the server is no longer the primary: {error}") from None

    async def send_packed_command(self, command: Any, check_health: bool = True) -> Any:
        if not self.is_connected:
            await self.connect()
        return await super().send_packed_command(command, check_health)


class Sentinels(redis.sentinel.Sentinel):
    """Asked rarely, so no connection to them is kept: none can be stale, none is left open at the end. One question
    at a time: redis-py reorders its list of sentinels, and two threads at it together would lose one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lock = threading.Lock()

    def discover_master(self, service_name: str) -> Any:
        """Host and port. Raises ConnectionError when no sentinel knows a master."""
        with self._lock:
            try:
                return super().discover_master(service_name)
            finally:
                for one in self.sentinels:
                    one.close()


class AsyncSentinels(redis.asyncio.sentinel.Sentinel):
    """As `Sentinels`, for an event loop."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lock = asyncio.Lock()

    async def discover_master(self, service_name: str) -> Any:
        """As `Sentinels.discover_master`."""
        async with self._lock:
            try:
                return await super().discover_master(service_name)
            finally:
                for one in self.sentinels:
                    await one.aclose()
