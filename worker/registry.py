"""What this worker knows of the registry."""

from __future__ import annotations

import threading

from shared.catalog import Catalog
from shared.errors import ConfigError
from shared.logs import Event, get_logger
from shared.registry import Registry
from shared.registry_store import RegistryStore

logger = get_logger("worker")


class RegistryReader:
    """Any thread. `registry` is replaced as a whole, `catalog` is kept as it says."""

    def __init__(self, store: RegistryStore) -> None:
        """Takes the models file in, if it is a new one. Raises redis errors."""
        self._store = store
        self._lock = threading.Lock()
        self._seen = ""
        self.registry: Registry = store.seed()
        self.catalog: Catalog = self.registry.catalog()

    def saw(self, etag: str) -> bool:
        """Somebody has seen this etag in Redis; whether it is not the one that is known here."""
        self._seen = etag
        return etag != self.registry.etag

    @property
    def outdated(self) -> bool:
        """Whether another etag has been seen since the last refresh."""
        return self._seen != self.registry.etag

    def refresh(self) -> bool:
        """Read it again; whether it has changed. One that cannot be read (a newer release's) changes nothing: what is
        known is served on. Raises redis errors."""
        with self._lock:
            try:
                found = self._store.read(self.registry)
            except ConfigError as error:
                logger.error(Event.REGISTRY_CHANGED, why="it is not taken in", error=error.message)
                found = self.registry
            changed = found.etag != self.registry.etag
            if changed:
                self.registry = found
                self.catalog.become(found.catalog())
            self._seen = found.etag
            return changed
