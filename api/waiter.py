"""Many callers that wait for jobs, one connection.

Each process listens on a channel of its own. `submit` and `watch` write that channel into a job's record, and the
script that ends the job publishes there, so no outcome falls between asking and listening.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from api.submitter import LOST, Submitter
from shared import keys
from shared.calls import Call
from shared.errors import StoreUnavailable
from shared.logs import Event, get_logger
from shared.scripts import watch
from shared.scripts_batches import BatchSeen, look_at_batch
from shared.types import State

logger = get_logger("api")

_QUIET_S = 5.0  # so long without a message: ask whether the connection lives
_CHECK_S = 10.0  # a second look at all jobs that are waited for, should news have been lost
_RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class News:
    """A job has ended. `meta` is its outcome as stored; empty when it is large and must be read."""

    state: State
    finished_at: int
    meta: bytes


# The ends of a batch as those of jobs, in which news come.
BATCH_NEWS = {"completed": State.SUCCEEDED, "canceled": State.CANCELED}

Waiting = asyncio.Future[News | None]


class Waiter:
    """Futures by job id. A future's result is the news, or None when the process drains. For one event loop."""

    def __init__(self, client: redis.asyncio.Redis, submitter: Submitter, channel: str) -> None:
        self.channel = channel
        self._client = client
        self._submitter = submitter
        self._futures: dict[str, list[Waiting]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._released = False
        self._subscribed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._futures)

    def expect(self, job_id: str) -> Waiting:
        """Before the job is submitted or watched. Give it back to `forget`."""
        future: Waiting = asyncio.get_running_loop().create_future()
        if self._released:
            future.set_result(None)
        self._futures.setdefault(job_id, []).append(future)
        return future

    def forget(self, job_id: str, future: Waiting) -> None:
        """The caller waits no more."""
        left = self._futures.get(job_id, [])
        if future in left:
            left.remove(future)
        if not left:
            self._futures.pop(job_id, None)
        future.cancel()

    def awaited(self, job_id: str) -> bool:
        """Whether anybody in this process waits for the job."""
        return job_id in self._futures

    def settle(self, job_id: str, news: News) -> None:
        """Wake all who wait for the job."""
        for future in self._futures.get(job_id, ()):
            if not future.done():
                future.set_result(news)

    def release(self) -> None:
        """The process ends: who waits, now or later, gets None."""
        self._released = True
        for futures in self._futures.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def start(self) -> None:
        """Listen, in the background, through every loss of the connection."""
        self._tasks = [asyncio.create_task(self._listen_forever()), asyncio.create_task(self._check_forever())]

    async def stop(self) -> None:
        """Listen no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen_forever(self) -> None:
        while True:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(self.channel)
                    await self._listen(pubsub)
            except LOST as error:
                logger.debug(Event.REDIS_LOST, part="waiter", error=error)
            await asyncio.sleep(_RETRY_S)

    async def _listen(self, pubsub: redis.asyncio.client.PubSub) -> None:
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
                job_id, finished_at, state, meta = message["data"].split(b"\n", 3)
                self.settle(job_id.decode(), News(State(state.decode()), int(finished_at), meta))
            elif message["type"] == "subscribe":
                # First or again (redis-py renews the subscription itself): news may have been published meanwhile.
                asyncio.get_running_loop().create_task(self._check()).add_done_callback(_swallow)

    async def _check_forever(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_S)
            await self._check()

    async def _check(self) -> None:
        """Watch all jobs again that somebody waits for; settle those that have ended."""
        waiting = [job_id for job_id, futures in self._futures.items() if not all(f.done() for f in futures)]
        with contextlib.suppress(StoreUnavailable):
            for at in range(0, len(waiting), 100):
                some = waiting[at : at + 100]
                replies = await self._submitter.run(*(self._again(job_id) for job_id in some))
                for job_id, seen in zip(some, replies, strict=True):
                    if isinstance(seen, BatchSeen) and BATCH_NEWS.get(seen.record.get("state", "")):
                        self.settle(job_id, News(BATCH_NEWS[seen.record["state"]], seen.now, b""))
                    elif not isinstance(seen, Exception | BatchSeen) and seen.meta:
                        record = seen.record
                        self.settle(job_id, News(State(record["state"]), int(record["finished_at"]), seen.meta))

    def _again(self, job_id: str) -> Call[Any]:
        if keys.is_batch(job_id):
            return look_at_batch(job_id, channel=self.channel)
        return watch(job_id, channel=self.channel)


def _swallow(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()
