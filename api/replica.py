"""`ML_DURABILITY=replica`: no job is called accepted before replicas of Redis have it, so that it outlives the primary
(`WAIT`, https://redis.io/docs/latest/commands/wait/)."""

from __future__ import annotations

from typing import Any

import redis.asyncio

from api.durable import ASK_MS, Durable
from shared.errors import ConfigError


class Replica(Durable):
    """So many of them, whichever."""

    unsure = (
        "the job was queued, but not enough replicas of Redis have confirmed it: it may be lost in a failover; with an "
        "Idempotency-Key it is safe to send it again"
    )

    def __init__(self, client: redis.asyncio.Redis, count: int) -> None:
        super().__init__(client)
        self._count = count

    async def check(self) -> None:  # noqa: D102 - as the base's
        found = int((await self._client.info("replication")).get("connected_slaves", 0))
        if found < self._count:
            raise ConfigError(
                f"ML_DURABILITY=replica: this server has {found} replicas now and ML_REPLICAS is {self._count}, so "
                "nothing could be accepted"
            )

    def question(self) -> tuple[str | int, ...]:  # noqa: D102 - as the base's
        return ("WAIT", self._count, ASK_MS)

    def confirms(self, reply: Any) -> bool:  # noqa: D102 - as the base's
        return int(reply) >= self._count
