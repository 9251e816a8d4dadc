"""`ML_DURABILITY=fsync`: no job is called accepted before Redis has it on its disk.

`WAITAOF` (Redis 7.2, Valkey) answers once the server's append-only file is synced up to the last write of the asking
connection (https://redis.io/docs/latest/commands/waitaof/). One connection asks for all: its own small write comes
after theirs, so one question serves every submit that was answered before it. A server that has lost its last second
meanwhile would say yes too, so each job is looked up behind the answer.

Redis 7.4.0 to 7.4.2 and Valkey from 8.0 answer too early while `appendfsync` is everysec
(https://github.com/redis/redis/pull/13793 tells why; Valkey 9.1 measured): there it must be always.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from api.submitter import LOST
from shared import keys
from shared.errors import ConfigError, StoreTooOld, StoreUnavailable

_ASK_MS = 2000  # below the client's socket timeout
_PATIENCE_S = 15.0


_Waiting = tuple[str, asyncio.Future[None]]


class Disk:
    """For one event loop."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._waiting: list[_Waiting] = []
        self._open: set[asyncio.Future[None]] = set()
        self._patience_s = _PATIENCE_S
        self._task: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raises StoreTooOld or ConfigError where the server cannot do it, redis errors where it does not answer."""
        try:
            await self._client.execute_command("WAITAOF", 1, 0, 1)  # type: ignore[no-untyped-call]  # redis-py's own
        except ResponseError as error:
            if "unknown command" in str(error):
                raise StoreTooOld(
                    "ML_DURABILITY=fsync needs WAITAOF: Redis 7.2 or newer, or Valkey; an older Redis can be run with "
                    "`appendfsync always` and ML_DURABILITY=everysec"
                ) from None
            raise ConfigError(f"ML_DURABILITY=fsync: the server has no append-only file: {error}") from None
        if answers_early(await self._client.info("server")) and await self._policy() != "always":
            raise ConfigError(
                "ML_DURABILITY=fsync: this server's WAITAOF answers before the disk has the data, unless it runs with "
                "`appendfsync always` (Valkey, and Redis 7.4.0 to 7.4.2)"
            )

    async def _policy(self) -> str:
        """`appendfsync`; empty where the server does not tell."""
        try:
            told: dict[str | None, str | None] = await self._client.config_get("appendfsync")
        except ResponseError:
            return ""
        return told.get("appendfsync") or ""

    async def holds(self, job_id: str, *, kind: str = keys.JOB) -> None:
        """Returns when a job (or a batch; `kind` is the prefix of its key) that was written before is on the server's
        disk. Raises StoreUnavailable when that cannot be told in time: then it may not survive a power cut."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        self._waiting.append((kind + job_id, future))
        if self._task is None:
            self._task = asyncio.create_task(self._ask_all(), context=Context())  # of no request: it serves many
        try:
            async with asyncio.timeout(self._patience_s):
                await future
        except TimeoutError:
            raise StoreUnavailable(_UNSURE) from None

    def release(self) -> None:
        """The API ends: who waits is told that it is unsure, and who comes now waits a second."""
        self._patience_s = 1.0
        for future in list(self._open):
            if not future.done():
                future.set_exception(StoreUnavailable(_UNSURE))

    async def _ask_all(self) -> None:
        try:
            while self._waiting:
                asking, self._waiting = self._waiting, []
                try:
                    synced, there = await self._ask([key for key, _ in asking])
                except (RedisError, *LOST):
                    synced, there = True, [False] * len(asking)
                open_ones = [one for one in zip(asking, there, strict=True) if not one[0][1].done()]
                if not synced:
                    self._waiting += [waiting for waiting, _ in open_ones]
                    continue
                for (_, future), exists in open_ones:
                    if exists:
                        future.set_result(None)
                    else:
                        future.set_exception(StoreUnavailable(_UNSURE))
        finally:
            self._task = None

    async def _ask(self, records: list[str]) -> tuple[bool, list[bool]]:
        """Whether all was synced, and which records the server has."""
        pipe = self._client.pipeline(transaction=False)
        pipe.set(keys.PROBE, "1", px=10_000)
        pipe.execute_command("WAITAOF", 1, 0, _ASK_MS)
        for record in records:
            pipe.exists(record)
        _, (local, _), *there = await pipe.execute()
        return bool(local), [bool(exists) for exists in there]


def answers_early(info: dict[str, Any]) -> bool:
    """By INFO's server section."""
    if info.get("server_name") == "valkey":
        return not str(info.get("valkey_version")).startswith("7.2.")
    return str(info.get("redis_version")) in ("7.4.0", "7.4.1", "7.4.2")


_UNSURE = (
    "the job was queued, but Redis has not confirmed it on its disk: it may be lost with the power; with an "
    "Idempotency-Key it is safe to send it again"
)
