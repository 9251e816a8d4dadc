"""Submit a job and wait for its outcome: what every face does whose caller waits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive

from api.deps import Services
from api.errors import CallerGone, problem
from api.submission import NewJob, Ticket
from api.waiter import News
from shared.errors import Fault, StoreUnavailable, WaitEnded
from shared.outcomes import readable
from shared.types import Problem, State


@dataclass(frozen=True, slots=True)
class Answer:
    """How a job ended: its `meta` is Celery's (see shared/outcomes.py); `stored` its output as JSON, where that lies in
    the payload store."""

    ticket: Ticket
    state: State
    meta: dict[str, Any]
    stored: bytes | None

    @property
    def ours(self) -> dict[str, Any]:
        """What Celery has no field for."""
        ours: dict[str, Any] = self.meta.get("ml", {})
        return ours

    @property
    def error(self) -> Problem | None:
        """Why it did not succeed. Its pointers lead into the input, or begin with /parameters."""
        if self.state is State.SUCCEEDED:
            return None
        return Problem.model_validate(self.ours.get("error", {"code": "predict_error", "message": "the job failed"}))

    @property
    def output(self) -> Any:
        """Of a job that succeeded."""
        return self.meta["result"] if self.stored is None else orjson.loads(self.stored)


async def wait_for(parts: Services, ticket: Ticket, wait_s: float, receive: Receive) -> Answer:
    """The outcome of a job that was submitted with `wait`. Raises WaitEnded, CallerGone (its work is then spared, if it
    has not begun), RecordUnreadable."""
    assert ticket.waiting is not None  # noqa: S101 - submitted with `wait`
    try:
        news = await parts.jobs.wait(ticket.job_id, ticket.waiting, wait_s, receive)
    except CallerGone:
        if ticket.fresh:
            with contextlib.suppress(StoreUnavailable):  # Redis away means it runs
                await parts.jobs.abandon(ticket.job_id)
        raise
    if news is None:
        raise WaitEnded(ticket.job_id)
    return await answer_of(parts, ticket, news)


async def answer_of(parts: Services, ticket: Ticket, news: News) -> Answer:
    """The outcome of a job that has ended. Raises WaitEnded where it cannot be read now, RecordUnreadable."""
    try:
        meta = news.meta or await parts.jobs.outcome(ticket.job_id)
        stored = await parts.jobs.stored(meta)
    except StoreUnavailable:
        raise WaitEnded(ticket.job_id, "the job has ended, but its output cannot be read now; poll its URL") from None
    with readable():
        return Answer(ticket, news.state, orjson.loads(meta), stored)


async def ask(parts: Services, new: NewJob, wait_s: float, receive: Receive) -> Answer:
    """Submit, and wait. A job without a deadline of its own has one when the wait ends. Raises what JobService.submit
    and `wait_for` do."""
    if new.deadline_s is None:
        new.deadline_s = wait_s
    ticket = await parts.jobs.submit(new, wait=True)
    return await wait_for(parts, ticket, wait_s, receive)


def failure(request: Request, answer: Answer, place: Callable[[Fault], Fault]) -> Response | None:
    """The answer for a job that did not succeed; `place` tells where in the request a fault of its input is. None: it
    did."""
    failed = answer.error
    if failed is None:
        return None
    faults = [place(fault) for fault in failed.errors or ()]
    return problem(request, failed.code, failed.message, faults=faults, job_id=answer.ticket.job_id)


def in_body(fault: Fault, field: str) -> Fault:
    """A fault of an outcome as one of the request, whose input is its field of this name."""
    if fault.pointer == "/parameters" or fault.pointer.startswith("/parameters/"):
        return fault
    return Fault(pointer=f"/{field}{fault.pointer}", code=fault.code, message=fault.message)
