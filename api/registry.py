"""This process's view of the registry, and the way to change it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import redis

from api.submitter import Command, Submitter, refusal
from shared import keys
from shared.catalog import Catalog
from shared.registry import Registry
from shared.registry_store import RegistryStore

T = TypeVar("T")


class LiveRegistry:
    """For one event loop. `catalog` is kept as the registry says; before Redis has answered for the first time it says
    what the models file says. All methods raise StoreUnavailable."""

    def __init__(self, store: RegistryStore, submitter: Submitter, catalog: Catalog) -> None:
        self._store, self._submitter, self.catalog = store, submitter, catalog
        self._lock = asyncio.Lock()
        self.known = Registry()

    def close(self) -> None:
        """No more changes."""
        self._store.close()

    async def refresh(self) -> Registry:
        """As it stands in Redis. A look at its etag, where it has not changed."""
        if await self._etag() != (self.known.etag or None):
            async with self._lock:  # many callers may have found it outdated at once
                if await self._etag() != (self.known.etag or None):
                    self._take(await self._call(lambda: self._store.read(self.known if self.known.etag else None)))
        return self.known

    async def start(self) -> None:
        """Take the models file in, if it is a new one."""
        self._take(await self._call(self._store.seed))

    async def change(self, how: Callable[[Registry], Registry], *, seen: str | None = None) -> Registry:
        """As RegistryStore.change."""
        await self.refresh()
        self._take(await self._call(lambda: self._store.change(how, seen=seen)))
        return self.known

    async def _etag(self) -> str | None:
        found: bytes | None = await self._submitter.one(Command("HGET", keys.REGISTRY, "etag"))
        return found.decode() if found else None

    async def _call(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(call)
        except redis.RedisError as error:
            raise refusal(error) from None

    def _take(self, registry: Registry) -> None:
        self.known = registry
        self.catalog.become(registry.catalog())
