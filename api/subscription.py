"""One channel of Redis, heard through every loss of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from api.submitter import LOST
from shared.logs import Event, get_logger

logger = get_logger("api")

_QUIET_S = 5.0  # so long without a message: ask whether the connection lives


async def hear_forever(
    client: redis.asyncio.Redis,
    channel: str,
    hear: Callable[[bytes], None],
    *,
    subscribed: Callable[[], None],
    part: str,
    retry_s: float,
) -> None:
    """Until it is canceled. `subscribed` is called at first and whenever it had to be done again (redis-py does so by
    itself, too): what was published meanwhile is lost. `part` is who listens, for the log; `retry_s` the pause after a
    loss."""
    while True:
        try:
            async with client.pubsub() as pubsub:
                await pubsub.subscribe(channel)
                await _hear(pubsub, hear, subscribed)
        except LOST as error:
            logger.debug(Event.REDIS_LOST, part=part, error=error)
        await asyncio.sleep(retry_s)


async def _hear(
    pubsub: redis.asyncio.client.PubSub, hear: Callable[[bytes], None], subscribed: Callable[[], None]
) -> None:
    quiet = 0
    while True:
        message = await pubsub.get_message(timeout=_QUIET_S)
        if message is None:
            quiet += 1
            if quiet > 2:
                raise RedisConnectionError("the subscription does not answer")
            await pubsub.ping()
            continue
        quiet = 0
        if message["type"] == "message":
            hear(message["data"])
        elif message["type"] == "subscribe":
            subscribed()
