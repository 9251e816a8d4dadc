"""What a job says of its answer while it runs, for one caller who reads along.

It is read from where a worker keeps it (shared/lua/say.lua), as often as something may be new: a message that is lost
and a caller who is slow lead to the same text, and so does another run of the job, as long as that says the same.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.types import Receive

from api.ask import Answer, answer_of
from api.deps import Services
from api.errors import CallerGone
from api.submission import Ticket
from api.submitter import Command
from api.waiter import Following, News, until_gone
from shared.errors import ServiceError, StoreUnavailable, WaitEnded
from shared.keys import said_key
from shared.outcomes import readable
from shared.scripts import Seen, watch
from shared.types import State

_MOST_BYTES = 65_536  # of one look; what there is beyond, the next one finds


class AnswerChanged(ServiceError):
    """The job was run again, and says something else than what was sent already; ask again."""

    code = "answer_changed"


@dataclass(slots=True)
class _Run:
    """One attempt's text, as far as it was read."""

    attempt: int = 0
    at: int = 0  # in bytes
    text: str = ""
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def add(self, piece: bytes) -> None:
        self.at += len(piece)
        self.text += self.decoder.decode(piece)  # the look may have cut a character


class Speech:
    """Made by `listening`. What `more` has given is never taken back."""

    def __init__(
        self, parts: Services, ticket: Ticket, following: Following, gone: asyncio.Future[None], wait_s: float
    ) -> None:
        self._parts, self._ticket, self._following, self._gone = parts, ticket, following, gone
        self._end = asyncio.get_running_loop().time() + wait_s
        self._run = _Run()
        self._told = ""

    async def more(self, quiet_s: float = math.inf) -> str | Answer:
        """The text that comes next, the job's end, or an empty text after `quiet_s` without either. Raises WaitEnded
        when the time is over or the process drains, CallerGone, AnswerChanged, RecordUnreadable."""
        assert self._ticket.waiting is not None  # noqa: S101 - submitted with `wait`
        loop = asyncio.get_running_loop()
        quiet = loop.time() + quiet_s
        while True:
            if self._ticket.waiting.done():
                return await self._answer(self._ticket.waiting.result())
            if self._gone.done():
                raise CallerGone
            if loop.time() >= min(self._end, quiet):
                if loop.time() < self._end:
                    return ""
                raise WaitEnded(self._ticket.job_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(self._end, quiet)):
                    await self._following.woken.wait()
            if self._following.woken.is_set():
                self._following.woken.clear()  # before the look: what comes from now on wakes again
                if text := await self._look():
                    return text

    def rest(self, text: str) -> str:
        """What is still to be told so that all of `text` is. Raises AnswerChanged where it goes on otherwise than what
        was told."""
        if not text.startswith(self._told):
            raise AnswerChanged
        more, self._told = text[len(self._told) :], text
        return more

    async def _look(self) -> str:
        """What is new; empty: nothing, or Redis is away, and wakes us when it is back."""
        job_id, run = self._ticket.job_id, self._run
        call = watch(job_id, channel=self._parts.waiter.channel, listen=True)
        read = Command("GETRANGE", said_key(job_id, run.attempt), run.at, run.at + _MOST_BYTES - 1)
        try:
            seen, piece = await self._parts.submitter.run(call, read)
        except StoreUnavailable:
            return ""
        if not isinstance(seen, Seen) or not isinstance(piece, bytes):
            return ""
        if seen.meta:  # its news are on the way, or were lost
            with readable():
                news = News(State(seen.record["state"]), int(seen.record["finished_at"]), seen.meta)
            self._parts.waiter.settle(job_id, news)
            return ""
        with readable():
            attempt = int(seen.record.get("attempt", run.attempt))
        if attempt != run.attempt:
            self._run = _Run(attempt)
            self._following.woken.set()
            return ""
        run.add(piece)
        if len(piece) == _MOST_BYTES:
            self._following.woken.set()
        return "" if self._told.startswith(run.text) else self.rest(run.text)

    async def _answer(self, news: News | None) -> Answer:
        if news is None:
            raise WaitEnded(self._ticket.job_id)
        return await answer_of(self._parts, self._ticket, news)


@asynccontextmanager
async def listening(parts: Services, ticket: Ticket, wait_s: float, receive: Receive) -> AsyncIterator[Speech]:
    """What a job says that was submitted with `wait`, for `wait_s`. Where its caller goes, or has got a text that it
    does not keep to, the job is canceled, also while it runs, unless somebody else wants it."""
    assert ticket.waiting is not None  # noqa: S101 - as said
    try:
        with parts.measures.waits.track_inprogress(), parts.waiter.following(ticket.job_id) as following:
            gone = asyncio.ensure_future(until_gone(receive))
            for news in (gone, ticket.waiting):
                news.add_done_callback(lambda _: following.woken.set())
            following.woken.set()  # the first look makes us a listener
            try:
                yield Speech(parts, ticket, following, gone, wait_s)
            finally:
                gone.cancel()
                parts.waiter.forget(ticket.job_id, ticket.waiting)
    except (CallerGone, AnswerChanged):
        if ticket.fresh:
            with contextlib.suppress(StoreUnavailable):  # Redis away means it runs
                await parts.jobs.abandon(ticket.job_id, running=True)
        raise
