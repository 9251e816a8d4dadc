"""Group commit: what many handlers want of Redis goes in one round trip.

While one round trip is under way, calls gather; the next takes them all. So a busy API makes few, large round trips
on few connections, and an idle one waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Any

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.calls import Call, Script, arun
from shared.errors import ServiceError, StoreUnavailable
from shared.store import refuses_writes

LOST = (RedisConnectionError, RedisTimeoutError, OSError)
_NO_SCRIPT = Script("", "", "")
_Request = tuple[Sequence[Call[Any]], asyncio.Future[list[Any]]]


class Command(Call[Any]):
    """A plain Redis command in the place of a script call."""

    def __init__(self, *words: str | bytes | int) -> None:
        super().__init__(_NO_SCRIPT, (), words, lambda reply: reply)

    def command(self) -> tuple[Any, ...]:
        """The words themselves."""
        return tuple(self.args)


def refusal(error: Exception) -> Exception:
    """What a failed call means to a caller: Redis is away, or full, or takes no writes; else the error itself."""
    if isinstance(error, OutOfMemoryError):
        return StoreUnavailable("Redis is full and takes no new jobs; what was accepted still finishes")
    if isinstance(error, LOST):
        return StoreUnavailable()
    if refuses_writes(error):
        return StoreUnavailable(f"Redis takes no writes: {error}")
    return error


class Submitter:
    """Runs calls in order, those of one `run` next to each other. For the event loop that it is used on."""

    def __init__(self, client: redis.asyncio.Redis, *, most: int = 256, most_bytes: int = 8_000_000) -> None:
        self._client = client
        # Of one round trip: bounds on how long Redis is busy with us at a stretch, and on our copy of it.
        self._most, self._most_bytes = most, most_bytes
        self._waiting: list[_Request] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self, *calls: Call[Any]) -> list[Any]:
        """The parsed replies; an error reply stands in the place of its reply. Raises StoreUnavailable when the
        connection fails: then it is not known whether the calls ran."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((calls, future))
        if self._task is None:
            self._task = asyncio.create_task(self._commit_all(), context=Context())  # of no request: it serves many
        return await future

    async def all(self, *calls: Call[Any]) -> list[Any]:
        """The parsed replies. Raises StoreUnavailable, or what Redis says, where any is an error; the others ran."""
        replies = await self.run(*calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise refusal(reply)
        return replies

    async def one(self, call: Call[Any]) -> Any:
        """One call's reply. Raises as `all`."""
        return (await self.all(call))[0]

    async def close(self) -> None:
        """Returns when all that was asked for is answered."""
        if self._task is not None:
            await self._task

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                await self._commit(self._next_group())
        finally:
            self._task = None

    def _next_group(self) -> list[_Request]:
        size = 0
        for count, (calls, _) in enumerate(self._waiting):
            size += sum(len(arg) for call in calls for arg in call.args if isinstance(arg, bytes))
            if count and (count >= self._most or size > self._most_bytes):
                break
        else:
            count = len(self._waiting)
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    async def _commit(self, group: list[_Request]) -> None:
        calls = [call for part, _ in group for call in part]
        try:
            replies = await arun(self._client, calls)
        except Exception as error:
            for _, future in group:
                if not future.done():
                    future.set_exception(_own(error))
            return
        at = 0
        for part, future in group:
            if not future.done():  # its handler may have been canceled
                future.set_result(replies[at : at + len(part)])
            at += len(part)


def _own(error: Exception) -> Exception:
    """One exception object for each caller: a shared one would gather all their tracebacks."""
    reason = refusal(error)
    if isinstance(reason, ServiceError):
        return type(reason)(reason.message)
    return RedisError(str(error)) if isinstance(error, RedisError) else error
