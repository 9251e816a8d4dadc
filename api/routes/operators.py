"""Operators' calls: see the workers, let one leave, hold a model's jobs back, throw those that wait away."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from api.admin import admin_only
from api.answers import json_response
from api.deps import services
from api.docs import problems
from api.paths import MODEL
from api.schemas_operators import Draining, Paused, Purged, WorkerList

router = APIRouter(dependencies=[Depends(admin_only)])


@router.get(
    "/v1/workers",
    summary="The workers",
    response_model=None,
    responses={200: {"model": WorkerList}, **problems(401, 403, 503)},
)
async def list_workers(request: Request) -> Response:
    """Those that live, by their last signs of life, and those that have failed to start a moment ago."""
    return json_response(WorkerList(data=await services(request).workers.all()))


@router.post(
    "/v1/workers/{worker}/drain",
    summary="Let a worker leave",
    status_code=202,
    response_model=None,
    responses={
        202: {"model": Draining, "description": "It is told with its next heartbeat"},
        **problems(401, 403, 404, 503),
    },
)
async def drain(request: Request, worker: str) -> Response:
    """As on SIGTERM: it takes nothing more, finishes the batch on its device, gives the rest back and exits with 0.
    Whoever keeps it running may start another. Its name, or the `id` of one process."""
    return json_response(Draining(draining=await services(request).workers.drain(worker)), status=202)


@router.post(
    f"/v1/models/{MODEL}/pause",
    summary="Start no job of a model",
    response_model=None,
    responses={200: {"model": Paused}, **problems(401, 403, 404, 503)},
)
async def pause(request: Request, model: str) -> Response:
    """No job of it starts after this answer; those that run end. Callers may still submit: their jobs wait, until
    `resume` or their deadlines. It outlives restarts of everything, and changes of the model."""
    changed = await services(request).pauses.pause(model)
    return json_response(Paused(model=model, paused=True, changed=changed))


@router.post(
    f"/v1/models/{MODEL}/resume",
    summary="Start jobs of a model again",
    response_model=None,
    responses={200: {"model": Paused}, **problems(401, 403, 404, 503)},
)
async def resume(request: Request, model: str) -> Response:
    """Workers go on with it at once."""
    changed = await services(request).pauses.resume(model)
    return json_response(Paused(model=model, paused=False, changed=changed))


@router.post(
    f"/v1/models/{MODEL}/purge",
    summary="Cancel the jobs of a model that have not started",
    response_model=None,
    responses={200: {"model": Purged}, **problems(401, 403, 404, 503)},
)
async def purge(request: Request, model: str) -> Response:
    """Each ends as canceled, and whoever waits for it is told. It answers when all have ended,
    and goes on if its caller hangs up. Pause the model first, if none is to slip through."""
    return json_response(Purged(canceled=await services(request).purge.model(model)))
