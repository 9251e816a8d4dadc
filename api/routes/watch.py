"""`/v1/watch`: what the service does, as it does it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.auth import needs
from api.docs import problems
from api.watch import WatchStream
from shared.api_keys import Scope

router = APIRouter(dependencies=[needs(Scope.METRICS)])


@router.get(
    "/v1/watch",
    summary="Watch the service",
    response_model=None,
    responses={
        200: {"description": "A stream without an end", "content": {"text/event-stream": {}}},
        **problems(401, 403),
    },
)
async def watch(request: Request) -> Response:
    """Server-Sent Events: once a second `seen`, with queues, jobs ever by their state, workers, and how long jobs took,
    as JSON (the schema `Seen`). Counts only rise: what has happened since the last event is their difference. For
    records over longer times there is `/metrics`."""
    return WatchStream(request.app.state.watch)
