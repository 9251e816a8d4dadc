"""Connections to Redis, and what we ask of the server."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import StoreTooOld, StoreUnavailable
from shared.settings import Settings

MINIMUM = (7, 0)


def connect(settings: Settings) -> redis.Redis:
    """A client with its own pool, not yet connected. Nothing is retried silently: each caller knows what may be run
    again."""
    return redis.Redis.from_url(
        client_url(settings),
        socket_timeout=30,
        socket_connect_timeout=5,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),
    )


def check_server(client: redis.Redis) -> None:
    """Raises StoreTooOld below Redis 7.0, StoreUnavailable when it does not answer."""
    try:
        info = client.info("server")
    except redis.RedisError as error:
        raise StoreUnavailable(f"Redis does not answer: {error}") from None
    refuse_old(info)


def refuse_old(info: dict[str, object]) -> None:
    """`info` is INFO's server section. Scripts need the flags of 7.0 (`#!lua flags=allow-oom`)."""
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM:
        raise StoreTooOld(f"Redis {version} is too old: 7.0 or newer, or Valkey, is needed")


def client_url(settings: Settings) -> str:
    """redis-py's spelling of a URL that kombu understands too."""
    return settings.redis_url.replace("redis+socket://", "unix://", 1)
