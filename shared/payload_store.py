"""The payload store: large parts of inputs, large outputs and files, each under a reference (shared/payload_place.py).

Redis, a folder that API and workers share, or S3. What a reference means is written once and never changed. How long it
lives is not known here: shared/lua/stored.lua has the expiry of each, and api/reaper.py deletes what has expired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import redis

from shared.errors import ConfigError, PayloadsUnavailable
from shared.payload_bucket import Bucket
from shared.payload_folder import Folder
from shared.payload_place import NAMES, PayloadRef, Place
from shared.payload_redis import RedisObjects
from shared.settings import Settings

GRACE_S = 3600.0  # how long the objects live of one who has begun to write them and was not heard of again
JSON_TYPE, BYTES_TYPE = "application/json", "application/octet-stream"


class PayloadGone(Exception):
    """There is nothing under this reference any more."""


class Objects(Protocol):
    """One kind of store. All raise PayloadsUnavailable when it does not answer. Any thread."""

    chunk_bytes: int
    """What comes as a stream is cut into objects of this size."""

    def check(self) -> None:
        """Raises ConfigError for what waiting does not mend."""

    def put(self, name: str, data: bytes, content_type: str) -> None:
        """All of it or nothing; again is harmless. It survives a loss of power."""

    def get(self, name: str) -> bytes | None:
        """None: there is none."""

    def size(self, name: str) -> int | None:
        """Bytes of an object. None: there is none."""

    def delete(self, names: Sequence[str]) -> None:
        """Those that are there."""

    def signed_url(self, name: str, seconds: float) -> str | None:
        """Whoever has it reads the object until then. None: this store knows no such thing."""


class Payloads:
    """The store of the settings, and what lies in Redis, whatever the settings say: so both are read while one
    replaces the other. Blocks; any thread."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        """Raises ConfigError where the package for S3 is not installed."""
        place = Place.parse(settings.payload_store)
        self._stores: dict[str, Objects] = {"r": RedisObjects(client, GRACE_S)}
        if place.kind == "f":
            self._stores["f"] = Folder(place.where)
        if place.kind == "s":
            self._stores["s"] = Bucket(place.where, place.prefix, settings.s3_endpoint)
        self.kind, self._own = place.kind, self._stores[place.kind]
        self.chunk_bytes = self._own.chunk_bytes

    @property
    def external(self) -> bool:
        """Whether it is not Redis."""
        return self.kind != "r"

    def check(self) -> None:
        """At start. Raises ConfigError for what waiting does not mend."""
        self._own.check()

    def has(self, ref: PayloadRef) -> bool:
        """Whether it is in a store that this process knows."""
        return ref.kind in self._stores

    def put(self, ref: PayloadRef, number: int, data: bytes, content_type: str = BYTES_TYPE) -> None:
        """Object `number` of a new reference, whose expiry is written already. Raises PayloadsUnavailable."""
        self._of(ref).put(ref.object(number), data, content_type)

    def get(self, ref: PayloadRef) -> bytes:
        """All of it. Raises PayloadGone, PayloadsUnavailable."""
        return b"".join(self.chunks(ref))

    def chunks(self, ref: PayloadRef) -> Iterator[bytes]:
        """Object by object. Raises PayloadGone, PayloadsUnavailable."""
        for number in range(ref.count):
            yield self.chunk(ref, number)

    def chunk(self, ref: PayloadRef, number: int) -> bytes:
        """One object. Raises PayloadGone, PayloadsUnavailable."""
        found = self._of(ref).get(ref.object(number))
        if found is None:
            raise PayloadGone
        return found

    def size(self, ref: PayloadRef, number: int) -> int | None:
        """Of one object. Raises PayloadsUnavailable."""
        return self._of(ref).size(ref.object(number))

    def delete(self, refs: Sequence[PayloadRef]) -> None:
        """What is there of them. Raises PayloadsUnavailable: then some may be gone."""
        for kind in dict.fromkeys(ref.kind for ref in refs):
            mine = [ref for ref in refs if ref.kind == kind]
            self._of(mine[0]).delete([name for ref in mine for name in ref.objects])

    def signed_url(self, ref: PayloadRef, seconds: float) -> str | None:
        """None where there is none: another store, or more than one object. Raises PayloadsUnavailable."""
        return self._of(ref).signed_url(ref.object(0), seconds) if ref.count == 1 and seconds > 0 else None

    def _of(self, ref: PayloadRef) -> Objects:
        store = self._stores.get(ref.kind)
        if store is None:
            raise PayloadsUnavailable(
                f"it lies in {NAMES[ref.kind]}, and this process has another payload store: ML_PAYLOAD_STORE must be "
                "the same everywhere"
            )
        return store


def open_payloads(settings: Settings, client: redis.Redis) -> Payloads:
    """At the start of a process. Raises ConfigError for a store that cannot work: no folder, no bucket, no package. One
    that does not answer yet is no reason not to start."""
    payloads = Payloads(settings, client)
    try:
        payloads.check()
    except PayloadsUnavailable:
        pass
    except ConfigError as error:
        raise ConfigError(f"ML_PAYLOAD_STORE: {error.message}") from None
    return payloads
