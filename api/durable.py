"""`ML_DURABILITY`: no job is called accepted before Redis says that it is where a failure does not take it.

One connection asks for all: its own small write comes after theirs, so one question serves every submit that was
answered before it. A server that has lost its last second meanwhile, or another that took its place, would say yes too,
so each job is looked up behind the answer.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextvars import Context
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from api.submitter import LOST
from shared import keys
from shared.errors import StoreUnavailable

ASK_MS = 2000  # below the client's socket timeout
_PATIENCE_S = 15.0


_Waiting = tuple[str, asyncio.Future[None]]


class Durable(ABC):
    """One kind of it. For one event loop."""

    unsure: str
    """What a caller is told whose job is queued, and not known to be safe."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._waiting: list[_Waiting] = []
        self._open: set[asyncio.Future[None]] = set()
        self._patience_s = _PATIENCE_S
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def check(self) -> None:
        """Raises StoreTooOld or ConfigError where the server cannot do it, redis errors where it does not answer."""

    @abstractmethod
    def question(self) -> tuple[str | int, ...]:
        """A command that is answered when all writes before it on its connection are safe, or after ASK_MS."""

    @abstractmethod
    def confirms(self, reply: Any) -> bool:
        """Whether that is its answer."""

    async def holds(self, job_id: str, *, kind: str = keys.JOB) -> None:
        """Returns when a job (or a batch; `kind` is the prefix of its key) that was written before is safe. Raises
        StoreUnavailable when that cannot be told in time: then it may not survive."""
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
            raise StoreUnavailable(self.unsure) from None

    def release(self) -> None:
        """The API ends: who waits is told that it is unsure, and who comes now waits a second."""
        self._patience_s = 1.0
        for future in list(self._open):
            if not future.done():
                future.set_exception(StoreUnavailable(self.unsure))

    async def _ask_all(self) -> None:
        try:
            while self._waiting:
                asking, self._waiting = self._waiting, []
                try:
                    safe, there = await self._ask([key for key, _ in asking])
                except (RedisError, *LOST):
                    safe, there = True, [False] * len(asking)
                open_ones = [one for one in zip(asking, there, strict=True) if not one[0][1].done()]
                if not safe:
                    self._waiting += [waiting for waiting, _ in open_ones]
                    continue
                for (_, future), exists in open_ones:
                    if exists:
                        future.set_result(None)
                    else:
                        future.set_exception(StoreUnavailable(self.unsure))
        finally:
            self._task = None

    async def _ask(self, records: list[str]) -> tuple[bool, list[bool]]:
        """Whether all is safe, and which records the server has."""
        pipe = self._client.pipeline(transaction=False)
        pipe.set(keys.PROBE, "1", px=10_000)
        pipe.execute_command(*self.question())
        for record in records:
            pipe.exists(record)
        _, reply, *there = await pipe.execute()
        return self.confirms(reply), [bool(exists) for exists in there]
