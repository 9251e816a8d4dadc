"""Redis as the payload store: each object a string that goes by its TTL, which the scripts raise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import redis

from shared import keys
from shared.errors import PayloadsUnavailable


class RedisObjects:
    """See Objects."""

    chunk_bytes = 1_000_000

    def __init__(self, client: redis.Redis, grace_s: float) -> None:
        self._client, self._grace_ms = client, int(grace_s * 1000)

    def check(self) -> None:
        """Who starts has checked Redis."""

    def put(self, name: str, data: bytes, content_type: str) -> None:
        """See Objects. As durable as Redis is."""
        with _refused():
            self._client.set(keys.OBJECT + name, data, px=self._grace_ms)

    def get(self, name: str) -> bytes | None:
        """See Objects."""
        with _refused():
            found = self._client.get(keys.OBJECT + name)
        return found if isinstance(found, bytes) else None

    def size(self, name: str) -> int | None:
        """See Objects."""
        with _refused():
            found = self._client.strlen(keys.OBJECT + name)
            return found if found or self._client.exists(keys.OBJECT + name) else None

    def delete(self, names: Sequence[str]) -> None:
        """See Objects."""
        with _refused():
            self._client.unlink(*(keys.OBJECT + name for name in names))

    def signed_url(self, name: str, seconds: float) -> str | None:
        """There is none."""
        return None


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except redis.exceptions.OutOfMemoryError:
        raise PayloadsUnavailable("Redis is full and takes no more files") from None
    except redis.RedisError:
        raise PayloadsUnavailable("Redis, which is the payload store, does not answer or takes no writes") from None
