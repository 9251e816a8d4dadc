"""`ML_DURABILITY=fsync`: no job is called accepted before Redis has it on its disk.

`WAITAOF` (Redis 7.2, Valkey) answers once the server's append-only file is synced up to the last write of the asking
connection (https://redis.io/docs/latest/commands/waitaof/).

Redis 7.4.0 to 7.4.2 and Valkey from 8.0 answer too early while `appendfsync` is everysec
(https://github.com/redis/redis/pull/13793 tells why; Valkey 9.1 measured): there it must be always.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from api.durable import ASK_MS, Durable
from shared.errors import ConfigError, StoreTooOld


class Disk(Durable):
    """The server's own."""

    unsure = (
        "the job was queued, but Redis has not confirmed it on its disk: it may be lost with the power; with an "
        "Idempotency-Key it is safe to send it again"
    )

    async def check(self) -> None:  # noqa: D102 - as the base's
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
                "`appendfsync always` (Valkey, and Redis 7.4.0 to 7.4.2), and lets us see that (`CONFIG GET`)"
            )

    async def _policy(self) -> str:
        """`appendfsync`; empty where the server does not tell."""
        try:
            told: dict[str | None, str | None] = await self._client.config_get("appendfsync")
        except ResponseError:
            return ""
        return told.get("appendfsync") or ""

    def question(self) -> tuple[str | int, ...]:  # noqa: D102 - as the base's
        return ("WAITAOF", 1, 0, ASK_MS)

    def confirms(self, reply: Any) -> bool:  # noqa: D102 - as the base's
        local, _ = reply
        return bool(local)


def answers_early(info: dict[str, Any]) -> bool:
    """By INFO's server section."""
    if info.get("server_name") == "valkey":
        return not str(info.get("valkey_version")).startswith("7.2.")
    return str(info.get("redis_version")) in ("7.4.0", "7.4.1", "7.4.2")
