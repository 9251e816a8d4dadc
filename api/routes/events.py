"""`/v1/jobs/{id}/events`: what becomes of a job, as it comes."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.auth import caller_of
from api.deps import services
from api.docs import EVENTS, problems
from api.events import EventStream, last_event_id
from shared.api_keys import Scope

router = APIRouter(prefix="/v1/jobs")


@router.get(
    "/{job_id}/events",
    summary="Follow a job",
    response_model=None,
    responses={
        200: {"description": "A stream that ends with the job", "content": {"text/event-stream": {}}},
        204: {"description": "`Last-Event-ID` is the job's end: do not come again"},
        **problems(401, 403, 404, 503),
    },
    openapi_extra=EVENTS,
)
async def events(request: Request, job_id: str) -> Response:
    """Server-Sent Events, each with the job as JSON: `queued` (id 1), `running` (id 2), `progress` (no id), and
    `succeeded`, `failed` or `canceled` (id 3). Come again with `Last-Event-ID` where the stream ends before."""
    told = last_event_id(request.headers.get("last-event-id"))
    return EventStream(services(request), job_id, caller_of(request, Scope.READ), told)
