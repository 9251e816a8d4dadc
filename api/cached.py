"""One value that is dear to read, read again when it is old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cached(Generic[T]):
    """For one event loop. Callers who come while it is read share the read; where it fails the next of them tries
    again, and each sees what its own try raised."""

    def __init__(self, fresh_s: float, read: Callable[[], Awaitable[T]]) -> None:
        self._fresh_s, self._read = fresh_s, read
        self._held: tuple[float, T] | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> T:
        """Not older than `fresh_s`."""
        if (value := self._fresh()) is not None:
            return value[1]
        async with self._lock:
            if (value := self._fresh()) is None:
                read = await self._read()
                value = self._held = (time.monotonic(), read)
            return value[1]

    def _fresh(self) -> tuple[float, T] | None:
        held = self._held
        return held if held is not None and time.monotonic() - held[0] < self._fresh_s else None
