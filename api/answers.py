"""What a route answers with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi.responses import Response
from pydantic import BaseModel

from api.auth import Caller
from api.deps import Services
from api.errors import job_url
from api.submission import Ticket
from shared.errors import StoreUnavailable, UnknownJob
from shared.types import Job

_FORGOTTEN = (
    "the job was queued, and Redis does not know it any more: it was lost in a failover; with an Idempotency-Key it is "
    "safe to send it again"
)


def json_response(
    body: BaseModel | dict[str, Any] | list[Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A model, or what orjson knows, as JSON."""
    text = body.model_dump_json() if isinstance(body, BaseModel) else orjson.dumps(body)
    return Response(text, status, headers, "application/json")


def job_headers(ticket: Ticket) -> dict[str, str]:
    """Of an answer with a job's output: where the job is read, and which version it ran."""
    return {"Location": job_url(ticket.job_id), "ML-Model": str(ticket.ref)}


def job_response(job: Job, *, status: int = 200, applied: str | None = None) -> Response:
    """A job's JSON, with its URL."""
    headers = {"Location": job_url(job.id)}
    if applied:
        headers["Preference-Applied"] = applied
    return json_response(job, status, headers)


async def accepted(parts: Services, ticket: Ticket, caller: Caller, *, applied: str | None = None) -> Response:
    """Who has not waited gets 202 for the job that this call made, however quick the worker was; else the job as it
    is now, with 200 if it has ended."""
    queued = ticket.as_queued()
    if queued is not None and ticket.waiting is None:
        return job_response(queued, status=202, applied=applied)
    try:
        job = await parts.jobs.get(ticket.job_id, caller)
    except StoreUnavailable:
        if queued is None:
            raise
        job = queued  # it was accepted: a 503 would say that it was not
    except UnknownJob:
        raise StoreUnavailable(_FORGOTTEN) from None
    return job_response(job, status=200 if job.state.terminal else 202, applied=applied)
