"""Webhooks: what became of a job's or batch's, and what they are signed with."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from api.answers import json_response
from api.auth import Caller, caller_of
from api.bodies import read_model
from api.deliver.secrets import Secrets
from api.deps import services
from api.docs import REDELIVER_QUERY, json_body, problems
from api.schemas import DeliveryList, Seconds, WebhookSecret
from shared.api_keys import Scope
from shared.errors import InvalidInput
from shared.webhooks import EVENTS, Kind

router = APIRouter(prefix="/v1")
_DAY_S = 86_400.0


class Rotation(BaseModel):
    """How to rotate."""

    model_config = ConfigDict(extra="forbid")

    grace_s: Seconds = Field(_DAY_S, ge=0, le=30 * _DAY_S, description="how long the old one signs beside the new")


async def _deliveries(request: Request, kind: Kind, of: str, caller: Caller) -> DeliveryList:
    """Raises UnknownJob or UnknownBatch, also for another's."""
    parts = services(request)
    found = await parts.deliveries.of(kind, of, caller)
    if not found.data:
        await (parts.batches if kind == "batch" else parts.jobs).get(of, caller)
    return found


async def _again(request: Request, kind: Kind, of: str) -> Response:
    event = request.query_params.get("event")
    if event is not None and event not in EVENTS[kind]:
        raise InvalidInput(f"event must be one of {', '.join(EVENTS[kind])}, not {event[:40]!r}")
    caller, parts = caller_of(request, Scope.SUBMIT), services(request)
    await parts.deliveries.again(await _deliveries(request, kind, of, caller), event)
    return json_response(await parts.deliveries.of(kind, of, caller), 202)


_READ = {200: {"model": DeliveryList}, **problems(401, 403, 404, 503)}
_AGAIN = {202: {"model": DeliveryList}, **problems(401, 403, 404, 409, 422, 503)}


@router.get("/jobs/{job_id}/deliveries", summary="A job's webhooks", response_model=None, responses=_READ)
async def of_job(request: Request, job_id: str) -> Response:
    """What became of each event that was to be sent. Readable as long as the job, and as long as it is tried."""
    return json_response(await _deliveries(request, "job", job_id, caller_of(request, Scope.READ)))


@router.post(
    "/jobs/{job_id}/deliveries",
    summary="Deliver a job's webhooks again",
    status_code=202,
    response_model=None,
    responses=_AGAIN,
    openapi_extra=REDELIVER_QUERY["job"],
)
async def job_again(request: Request, job_id: str) -> Response:
    """Now, with the same `webhook-id`, and by a fresh schedule if it fails; also to a receiver that has answered 410.
    `?event=`: of that event alone."""
    return await _again(request, "job", job_id)


@router.get("/batches/{batch_id}/deliveries", summary="A batch's webhooks", response_model=None, responses=_READ)
async def of_batch(request: Request, batch_id: str) -> Response:
    """As a job's."""
    return json_response(await _deliveries(request, "batch", batch_id, caller_of(request, Scope.READ)))


@router.post(
    "/batches/{batch_id}/deliveries",
    summary="Deliver a batch's webhooks again",
    status_code=202,
    response_model=None,
    responses=_AGAIN,
    openapi_extra=REDELIVER_QUERY["batch"],
)
async def batch_again(request: Request, batch_id: str) -> Response:
    """As a job's."""
    return await _again(request, "batch", batch_id)


@router.get(
    "/webhooks/secret",
    summary="What webhooks are signed with",
    response_model=None,
    responses={200: {"model": WebhookSecret}, **problems(401, 403, 503)},
)
async def secret(request: Request) -> Response:
    """The calling key's own, made at its first use."""
    caller = caller_of(request, Scope.READ)
    return _secret(await services(request).webhook_secrets.of(caller.owner))


@router.post(
    "/webhooks/secret/rotate",
    summary="A new secret for webhooks",
    response_model=None,
    responses={200: {"model": WebhookSecret}, **problems(400, 401, 403, 422, 503)},
    openapi_extra=json_body(Rotation, required=False),
)
async def rotate(request: Request) -> Response:
    """For `grace_s` (a day) each webhook has the signatures of the old one and the new."""
    caller = caller_of(request, Scope.SUBMIT)
    asked = read_model(Rotation, await request.body(), optional=True)
    return _secret(await services(request).webhook_secrets.rotate(caller.owner, grace_s=asked.grace_s))


def _secret(found: Secrets) -> Response:
    until = max((one.until for one in found.previous), default=None)
    told = WebhookSecret(secret=found.secret, previous_until=until)
    return json_response(told, headers={"Cache-Control": "no-store"})
