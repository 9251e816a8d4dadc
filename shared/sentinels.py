"""The sentinels, asked as Redis's protocol for clients says (https://redis.io/docs/latest/develop/reference/sentinel-clients/).
redis-py's own class asks another question, which is answered with the old master until all replicas follow the new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import MasterNotFoundError

Server = tuple[str, int]

QUESTION = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")
_NO_ANSWER = (RedisConnectionError, RedisTimeoutError, ResponseError)


def server(answer: Any) -> Server | None:
    """From the answer to QUESTION; None: this sentinel knows no such master."""
    return (answer[0].decode(), int(answer[1])) if answer else None


class Sentinels:
    """What redis-py's SentinelConnectionPool asks. No connection is kept: it is asked rarely. Any thread."""

    def __init__(self, hosts: Sequence[Server], options: dict[str, Any]) -> None:
        self._hosts, self._options = list(hosts), options
        self._first = 0  # the one that answered last

    def _turns(self) -> list[int]:
        count = len(self._hosts)
        return [(self._first + turn) % count for turn in range(count)]

    def discover_master(self, name: str) -> Server:
        """Raises MasterNotFoundError, a ConnectionError."""
        why: Exception | None = None
        for turn in self._turns():
            host, port = self._hosts[turn]
            try:
                with redis.Redis(host, port, **self._options) as sentinel:
                    found = server(sentinel.execute_command(*QUESTION, name))
            except _NO_ANSWER as error:
                why = error
                continue
            if found is not None:
                self._first = turn
                return found
        raise MasterNotFoundError(f"no sentinel names a master {name}" + (f": {why}" if why else ""))


class AsyncSentinels(Sentinels):
    """As `Sentinels`, for an event loop."""

    async def discover_master(self, name: str) -> Server:  # type: ignore[override]  # what is awaited, as in redis-py
        """Raises MasterNotFoundError, a ConnectionError."""
        why: Exception | None = None
        for turn in self._turns():
            host, port = self._hosts[turn]
            try:
                async with redis.asyncio.Redis(host=host, port=port, **self._options) as sentinel:
                    found = server(await sentinel.execute_command(*QUESTION, name))
            except _NO_ANSWER as error:
                why = error
                continue
            if found is not None:
                self._first = turn
                return found
        raise AsyncMasterNotFoundError(f"no sentinel names a master {name}" + (f": {why}" if why else ""))
