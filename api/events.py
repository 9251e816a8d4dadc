"""A job's life as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

What a stream sends is made from the job's record and from what it has sent before, never from a queue of news: a
message that is lost, a reader who is slow, and a client that comes back with `Last-Event-ID` all lead to the same
events.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from api.auth import Caller
from api.deps import Services
from api.waiter import Following, until_gone
from shared.errors import StoreUnavailable, UnknownJob
from shared.types import Job, State, Timing

KEEP_ALIVE_S = 15.0  # proxies cut connections that are silent for a minute
LONGEST_S = 3600.0  # then the client comes again, and its key is looked at again
RETRY_MS = 2000  # how long a browser waits before it does
_END_ID = 3

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]
KEEP_ALIVE = b": keep-alive\n\n"


class Story:
    """What a stream has told of a job. `told` is the last id that its client has."""

    def __init__(self, told: int = 0) -> None:
        self._told = told
        self._progress_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """The client has the job's end."""
        return self._told >= _END_ID

    def news(self, job: Job) -> bytes:
        """The events that are still to be told of the job as it is now; empty: none. Of a state that it has left the
        event tells what was known then."""
        events = b""
        if self._told < 1:
            events += self._tell(job if job.state is State.QUEUED else _as_it_was(job, State.QUEUED), 1)
        if self._told < 2 and (job.state is State.RUNNING or (job.state.terminal and job.started_at)):
            events += self._tell(job if job.state is State.RUNNING else _as_it_was(job, State.RUNNING), 2)
        elif job.state is State.RUNNING and job.progress and job.progress.at != self._progress_at:
            events += _event("progress", job)
        self._progress_at = job.progress.at if job.progress else None
        if job.state.terminal and not self.ended:
            events += self._tell(job, _END_ID)
        return events

    def _tell(self, job: Job, number: int) -> bytes:
        self._told = number
        return _event(job.state.value, job, number)


def _as_it_was(job: Job, state: State) -> Job:
    nothing: dict[str, Any] = {
        "output": None,
        "output_url": None,
        "error": None,
        "errors": None,
        "finished_at": None,
        "progress": None,
        "letter": None,
    }
    timing = Timing(queue_ms=job.timing.queue_ms) if state is State.RUNNING else Timing()
    if state is State.QUEUED:
        nothing |= {"started_at": None, "attempt": 0}
    return job.model_copy(update={**nothing, "state": state, "timing": timing})


def _event(name: str, job: Job, number: int | None = None) -> bytes:
    head = f"event: {name}\n" if number is None else f"id: {number}\nevent: {name}\n"
    return f"{head}data: {job.model_dump_json()}\n\n".encode()


def last_event_id(given: str | None) -> int:
    """Of the header's text; 0 for none, and for one that is not ours."""
    return int(given) if given is not None and given.isascii() and given.isdigit() and len(given) < 4 else 0


class EventStream(Response):
    """One client's stream. `told` is the last id that it has; it is 204 where that is the job's end."""

    def __init__(self, parts: Services, job_id: str, caller: Caller, told: int) -> None:
        super().__init__()
        self._parts, self._job_id, self._caller, self._told = parts, job_id, caller, told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Returns when the job has ended, the client has gone, the process drains, or LONGEST_S are over: but for the
        first the client is to come again. Raises what JobService.get raises, then nothing was sent."""
        story = Story(self._told)
        with self._parts.measures.waits.track_inprogress(), self._parts.waiter.following(self._job_id) as following:
            job = await self._look()
            if job.state.terminal and story.ended:
                self.status_code = 204
                await super().__call__(scope, receive, send)
                return
            gone = asyncio.ensure_future(until_gone(receive))
            gone.add_done_callback(lambda _: following.woken.set())
            try:
                await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
                await write(send, f"retry: {RETRY_MS}\n\n".encode() + story.news(job))
                if not job.state.terminal:
                    await self._follow(story, following, gone, send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                gone.cancel()

    async def _look(self) -> Job:
        return await self._parts.jobs.listen(self._job_id, self._caller)

    async def _follow(self, story: Story, following: Following, gone: asyncio.Future[None], send: Send) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + LONGEST_S
        while not (gone.done() or following.over or loop.time() > end):
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await following.woken.wait()
            except TimeoutError:
                await write(send, KEEP_ALIVE)
                continue
            following.woken.clear()  # before the look: what comes from now on wakes again
            try:
                job = await self._look()
            except StoreUnavailable:  # we are woken when it is back
                continue
            except UnknownJob:  # it has expired
                return
            if news := story.news(job):
                await write(send, news)
            if job.state.terminal:
                return


async def write(send: Send, body: bytes) -> None:
    """A part of a stream. Waits as long as the client does not read."""
    await send({"type": "http.response.body", "body": body, "more_body": True})
