"""Many callers that wait for jobs, one connection.

Each process listens on a channel of its own. `submit` and `watch` write that channel into a job's record, and the
script that ends the job publishes there, so no outcome falls between asking and listening. Who follows a job (a stream
of events) is only woken: what there is to tell stands in the record, so no queue of news grows anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from starlette.types import Receive

from api.submitter import Submitter
from api.subscription import hear_forever
from shared import keys
from shared.calls import Call
from shared.errors import StoreUnavailable
from shared.scripts import watch
from shared.scripts_batches import BatchSeen, look_at_batch
from shared.types import State

_CHECK_S = 10.0  # a second look at each job that is waited for, should news have been lost
_TURNS = 10  # in so many parts, since who comes meanwhile waits for it
_RETRY_S = 0.2
_ENDS = frozenset(state.value.encode() for state in State if state.terminal)


@dataclass(frozen=True, slots=True)
class News:
    """A job has ended. `meta` is its outcome as stored; empty when it is large and must be read."""

    state: State
    finished_at: int
    meta: bytes


# The ends of a batch as those of jobs, in which news come.
BATCH_NEWS = {"completed": State.SUCCEEDED, "canceled": State.CANCELED}

Waiting = asyncio.Future[News | None]


class Following:
    """Somebody follows a job. `woken` is set by whatever may be new of it, `over` once the process drains."""

    def __init__(self, *, over: bool) -> None:
        self.woken = asyncio.Event()
        self.over = over


class Waiter:
    """Futures by job id. A future's result is the news, or None when the process drains. For one event loop."""

    def __init__(self, client: redis.asyncio.Redis, submitter: Submitter, channel: str) -> None:
        self.channel = channel
        self._client = client
        self._submitter = submitter
        self._futures: dict[str, list[Waiting]] = {}
        self._following: dict[str, list[Following]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._released = self._over = False

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

    @contextlib.contextmanager
    def following(self, job_id: str) -> Iterator[Following]:
        """Be woken by news of a job that is watched with `listen`, and every `_CHECK_S`."""
        mine = Following(over=self._over)
        self._following.setdefault(job_id, []).append(mine)
        try:
            yield mine
        finally:
            left = self._following[job_id]
            left.remove(mine)
            if not left:
                del self._following[job_id]

    def awaited(self, job_id: str) -> bool:
        """Whether anybody in this process waits for the job, or follows it."""
        return job_id in self._futures or job_id in self._following

    def settle(self, job_id: str, news: News) -> None:
        """Wake all who wait for the job."""
        for future in self._futures.get(job_id, ()):
            if not future.done():
                future.set_result(news)

    def let_go(self) -> None:
        """The process drains: who follows a job, now or later, is to go on elsewhere."""
        self._over = True
        for following in self._all_following():
            following.over = True
            following.woken.set()

    def release(self) -> None:
        """The process ends: who waits, now or later, gets None."""
        self._released = True
        for futures in self._futures.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def start(self) -> None:
        """Listen, in the background, through every loss of the connection."""
        listening = hear_forever(
            self._client, self.channel, self._hear, subscribed=self._catch_up, part="waiter", retry_s=_RETRY_S
        )
        self._tasks = [asyncio.create_task(listening), asyncio.create_task(self._check_forever())]

    async def stop(self) -> None:
        """Listen no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _catch_up(self) -> None:
        """News may have been published while nobody listened."""
        asyncio.get_running_loop().create_task(self._check()).add_done_callback(_swallow)

    def _hear(self, news: bytes) -> None:
        job_id, at, what, meta = news.split(b"\n", 3)  # `what`: the state that the job has come to, or `progress`
        for following in self._following.get(job_id.decode(), ()):
            following.woken.set()
        if what in _ENDS:
            self.settle(job_id.decode(), News(State(what.decode()), int(at), meta))

    async def _check_forever(self) -> None:
        for turn in itertools.cycle(range(_TURNS)):
            await asyncio.sleep(_CHECK_S / _TURNS)
            await self._check({turn})

    async def _check(self, turns: Container[int] = range(_TURNS)) -> None:
        """Watch the jobs again that somebody waits for and whose turn is one of these; settle those that have ended.
        Who follows one looks himself."""
        for job_id, followings in self._following.items():
            if hash(job_id) % _TURNS in turns:
                for following in followings:
                    following.woken.set()
        waiting = [
            job_id
            for job_id, futures in self._futures.items()
            if hash(job_id) % _TURNS in turns and not all(future.done() for future in futures)
        ]
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

    def _all_following(self) -> list[Following]:
        return [one for some in self._following.values() for one in some]

    def _again(self, job_id: str) -> Call[Any]:
        if keys.is_batch(job_id):
            return look_at_batch(job_id, channel=self.channel)
        return watch(job_id, channel=self.channel)


async def until_gone(receive: Receive) -> None:
    """Returns when the caller has closed the connection. Its body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _swallow(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()
