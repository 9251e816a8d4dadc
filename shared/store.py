"""Connections to Redis, and what we ask of the server."""

from __future__ import annotations

from typing import Any, cast

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import MasterDownError, NoPermissionError, NoScriptError, ReadOnlyError
from redis.retry import Retry

from shared.errors import ConfigError, ServiceError, StoreTooOld, StoreUnavailable
from shared.follower import Follower, follow
from shared.primary import aprimary, primary
from shared.redis_url import Address
from shared.sentinels import AsyncSentinels, Sentinels
from shared.settings import Settings

MINIMUM = (7, 0)
_SECTIONS, _KEEPS = ("server", "cluster", "memory"), "noeviction"
_NO_WRITES = ("MISCONF ", "NOREPLICAS ", "BUSY ")  # redis-py has no classes for these
TIMEOUT_S = 10.0
RETRY_S = 0.5  # between the tries of a worker's thread while Redis is away
CONNECT_S = 5.0
SENTINEL_S = 2.0  # one that does not answer is not waited for long: there are others


def connect(settings: Settings, *, timeout_s: float = TIMEOUT_S) -> redis.Redis:
    """A client with its own pool, not yet connected. Nothing is retried silently: each caller knows what may be run
    again."""
    address = settings.redis_address()
    return client(address, timeout_s=timeout_s, connect_s=min(CONNECT_S, timeout_s), follower=follower(address))


def follower(address: Address) -> Follower | None:
    """This process's, which runs from now on; None where no sentinels are asked."""
    return follow(address.hosts, address.master, sentinel_options(address)) if address.master else None


def client(address: Address, *, timeout_s: float, connect_s: float, follower: Follower | None = None) -> redis.Redis:
    """As `connect`, with timeouts of one's own."""
    options = _options(address, timeout_s=timeout_s, connect_s=connect_s)
    options |= {"health_check_interval": 15, "retry": Retry(NoBackoff(), 0)}
    base: type[Any]
    if address.master:
        sentinels = Sentinels(address.hosts, sentinel_options(address))
        kind = redis.sentinel
        base = kind.SentinelManagedSSLConnection if address.tls else kind.SentinelManagedConnection
        pool = kind.SentinelConnectionPool(
            address.master, sentinels, connection_class=primary(base, follower), **options
        )
        return redis.Redis.from_pool(pool)
    base = redis.SSLConnection if address.tls else redis.Connection
    base = redis.UnixDomainSocketConnection if address.path else base
    return redis.Redis.from_pool(redis.ConnectionPool(connection_class=primary(base), **options))


def aconnect(settings: Settings) -> redis.asyncio.Redis:
    """As `connect`, for an event loop. One quick retry: a pooled connection may have died with the last Redis. More
    would only delay the 503."""
    address = settings.redis_address()
    options = _options(address, timeout_s=5, connect_s=2)
    options["retry"] = AsyncRetry(ConstantBackoff(0.05), 1)
    base: type[Any]
    if address.master:
        sentinels = AsyncSentinels(address.hosts, sentinel_options(address))
        kind = redis.asyncio.sentinel
        base = kind.SentinelManagedSSLConnection if address.tls else kind.SentinelManagedConnection
        made = aprimary(base, follower(address))
        pool = kind.SentinelConnectionPool(address.master, sentinels, connection_class=made, **options)
        return redis.asyncio.Redis.from_pool(pool)
    base = redis.asyncio.SSLConnection if address.tls else redis.asyncio.Connection
    base = redis.asyncio.UnixDomainSocketConnection if address.path else base
    return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(connection_class=aprimary(base), **options))


def _options(address: Address, *, timeout_s: float, connect_s: float) -> dict[str, Any]:
    options: dict[str, Any] = {"db": address.db, **address.login, **address.tls, "socket_timeout": timeout_s}
    if address.path:
        return options | {"path": address.path}
    options |= {"socket_connect_timeout": connect_s, "socket_keepalive": True}
    if not address.master:
        options["host"], options["port"] = address.hosts[0]
    return options


def sentinel_options(address: Address) -> dict[str, Any]:
    """How the sentinels themselves are asked; also a transport option of kombu's and Celery's. No retry: redis-py's
    own would try a dead one for seconds before the next."""
    tls = {"ssl": True, **address.tls} if address.tls else {}
    timeouts = {"socket_timeout": SENTINEL_S, "socket_connect_timeout": SENTINEL_S}
    return {**address.sentinel_login, **tls, **timeouts, "retry": None}


def refuses_writes(reply: object) -> bool:
    """Whether it is an error that says that the server takes no writes now (its disk, its replicas): nothing ran, and
    the same may run later."""
    if isinstance(reply, (ReadOnlyError, MasterDownError)):
        return True
    return isinstance(reply, redis.ResponseError) and str(reply).startswith(_NO_WRITES)


def may_pass(error: redis.RedisError) -> bool:
    """Whether the same call may work later: Redis is away, or takes no writes now. What is not, waiting never mends."""
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError, NoScriptError, redis.exceptions.OutOfMemoryError)):
        return True
    return refuses_writes(error)


def check_server(client: redis.Redis) -> None:
    """Raises StoreTooOld below Redis 7.0, ConfigError for one that cannot hold the queue or denies its user what we
    need, StoreUnavailable when it does not answer."""
    info: dict[str, object] = {}
    try:
        for section in _SECTIONS:
            info |= cast(dict[str, object], client.info(section))
    except redis.RedisError as error:
        raise _no_answer(error) from None
    refuse_unfit(info)


async def acheck_server(client: redis.asyncio.Redis) -> None:
    """As `check_server`."""
    info: dict[str, object] = {}
    try:
        for section in _SECTIONS:
            info |= await client.info(section)
    except redis.RedisError as error:
        raise _no_answer(error) from None
    refuse_unfit(info)


def _no_answer(error: redis.RedisError) -> ServiceError:
    if isinstance(error, NoPermissionError):
        return ConfigError(f"ML_REDIS_URL: {error}; docs/configuration.md tells what its user must be allowed")
    return StoreUnavailable(f"Redis does not answer: {error}")


def refuse_unfit(info: dict[str, object]) -> None:
    """`info` is INFO's sections server, cluster and memory. Scripts need the flags of 7.0 (`#!lua flags=allow-oom`),
    all keys on one server, and that they stay there: an eviction takes parts of jobs."""
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM:
        raise StoreTooOld(f"Redis {version} is too old: 7.0 or newer, or Valkey, is needed")
    if info.get("redis_mode", info.get("server_mode")) == "sentinel":
        raise ConfigError("ML_REDIS_URL: this is a sentinel; write sentinel://HOST:PORT/DB?master_name=NAME")
    if str(info.get("cluster_enabled")) == "1":
        raise ConfigError(
            "ML_REDIS_URL: this is a Redis Cluster; the scripts need all keys on one server: Redis or Valkey without "
            "cluster-enabled, which Sentinel can fail over"
        )
    policy = info.get("maxmemory_policy", _KEEPS)
    if policy != _KEEPS:
        raise ConfigError(
            f"ML_REDIS_URL: this server may evict accepted jobs (maxmemory-policy {policy}); set it to {_KEEPS}, "
            "or use a server that is no cache"
        )
