"""`POST /inference`: the seed's contract. Call, wait, get the output."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.answers import accepted, job_headers, json_response
from api.ask import Answer, failure, in_body, wait_for
from api.bodies import INFERENCE, read_job
from api.deps import services
from api.docs import BINARY, INFERENCE_BODY, problems
from api.errors import problem
from api.jobs import prefixed
from api.plain_route import PlainRoute
from api.prefer import parse_prefer
from api.query import idempotency_key
from api.routes.output import Stored, in_octets
from api.schemas import InferenceAnswer
from shared.errors import InvalidInput, NotAcceptable

router = APIRouter(route_class=PlainRoute)


@router.post(
    "/inference",
    summary="Run a model and wait for its output",
    response_model=None,
    responses={
        200: {"model": InferenceAnswer, "content": BINARY},
        **problems(400, 401, 403, 404, 406, 409, 413, 415, 422, 429, 500, 502, 503, 504, 507),
    },
    openapi_extra=INFERENCE_BODY,
)
async def inference(request: Request) -> Response:
    """Waits up to `ML_INFERENCE_WAIT_S` (25 s), which is also the job's deadline unless you give one; then 504 with
    the job's URL. `Prefer: respond-async` answers 202 at once. `Accept: application/octet-stream`: embeddings as
    float32, little-endian, in C order, with `ML-Shape` and `ML-Dtype`."""
    parts = services(request)
    prefer = parse_prefer(request.headers.getlist("prefer"))
    new = await read_job(request, INFERENCE, parts.catalog)
    new.idempotency_key = idempotency_key(request)
    most = parts.settings.inference_wait_s
    wait_s = most if prefer.wait_s is None else min(most, prefer.wait_s)
    if not prefer.respond_async and new.deadline_s is None:
        new.deadline_s = most
    try:
        ticket = await parts.jobs.submit(new, wait=not prefer.respond_async)
    except InvalidInput as error:
        raise prefixed(error, "data") from None
    if ticket.waiting is None:
        return await accepted(parts, ticket, new.caller, applied="respond-async")
    return answer_response(request, await wait_for(parts, ticket, wait_s, request.receive))


def answer_response(request: Request, answer: Answer) -> Response:
    """The output, or why there is none."""
    ticket, ours, stored = answer.ticket, answer.ours, answer.stored
    failed = failure(request, answer, lambda fault: in_body(fault, "data"))
    if failed is not None:
        return failed
    headers = job_headers(ticket)
    try:
        octets = in_octets(request, answer.meta["result"] if stored is None else Stored(stored), headers)
    except NotAcceptable as error:
        return problem(request, error.code, error.message, job_id=ticket.job_id)
    if octets is not None:
        return octets
    timing = ours.get("timing", {})
    if timing.get("queue_ms") is None and ours.get("started_at") and ticket.created_at:
        timing["queue_ms"] = max(0, ours["started_at"] - ticket.created_at)
    body = {
        "job_id": ticket.job_id,
        "model": ticket.ref.model,
        "version": ticket.ref.version,
        "output": answer.meta["result"] if stored is None else orjson.Fragment(stored),
        "timing": timing,
    }
    if ticket.fallback_for:
        body["fallback_for"] = ticket.fallback_for
    if ours.get("faults"):
        body["errors"] = [fault | {"pointer": f"/data{fault['pointer']}"} for fault in ours["faults"]]
    return json_response(body, headers=headers)
