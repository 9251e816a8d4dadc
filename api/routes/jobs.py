"""`/v1/jobs`: submit, list, read, wait for, cancel."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.answers import accepted, job_response
from api.auth import caller_of
from api.bodies import JOBS, read_job
from api.deps import services
from api.docs import JOBS_BODY, JOBS_QUERY, WAIT_QUERY, links, problems
from api.jobs import prefixed
from api.listing import Asked
from api.plain_route import PlainRoute
from api.prefer import parse_prefer
from api.query import held_s, idempotency_key, known_query, limit_of
from api.schemas import JobPage
from shared.api_keys import Scope
from shared.errors import InvalidInput
from shared.types import Job, State

router = APIRouter(prefix="/v1/jobs", route_class=PlainRoute)

_DEFAULT, _MOST, _MOST_LABELS = 50, 200, 32
_LINKS = links({"job_id": "id"}, "GET /v1/jobs/{job_id}", "GET /v1/jobs/{job_id}/output", "DELETE /v1/jobs/{job_id}")


@router.post(
    "",
    summary="Queue a job",
    status_code=202,
    response_model=None,
    responses={
        202: {"model": Job, "links": _LINKS, "description": "Accepted"},
        200: {
            "model": Job,
            "links": _LINKS,
            "description": "It has ended already (Prefer: wait, or a repeated Idempotency-Key)",
        },
        **problems(400, 401, 403, 404, 413, 415, 422, 429, 503),
    },
    openapi_extra=JOBS_BODY,
)
async def submit(request: Request) -> Response:
    """202 with the job and its URL. `Prefer: wait=N` holds the answer until the job has ended, N seconds at most.
    `Idempotency-Key`: the same key and payload is the same job; another payload 422."""
    parts = services(request)
    prefer = parse_prefer(request.headers.getlist("prefer"))
    new = await read_job(request, JOBS, parts.catalog)
    new.idempotency_key = idempotency_key(request)
    wait_s = 0.0 if prefer.respond_async or prefer.wait_s is None else min(prefer.wait_s, parts.settings.max_wait_s)
    try:
        ticket = await parts.jobs.submit(new, wait=wait_s > 0)
    except InvalidInput as error:
        raise prefixed(error, "input") from None
    applied = "respond-async" if prefer.respond_async else None
    if ticket.waiting is not None:
        applied = f"wait={wait_s:g}"
        await parts.jobs.wait(ticket.job_id, ticket.waiting, wait_s, request.receive)
    return await accepted(parts, ticket, new.caller, applied=applied)


@router.get(
    "",
    summary="Your jobs",
    response_model=None,
    responses={200: {"model": JobPage}, **problems(401, 403, 422, 503)},
    openapi_extra=JOBS_QUERY,
)
async def page(request: Request) -> Response:
    """Those of your key, the newest first, as long as they can be read; without output, and without the lines of
    batches. `next` is the `cursor` of the next page: with a filter a page may be short, or empty, and yet not the
    last."""
    query, caller = request.query_params, caller_of(request, Scope.READ)
    known_query(request, "state", "model", "label", "limit", "cursor")
    asked = Asked(_states(query.getlist("state")), query.get("model", ""), _labels(query.getlist("label")))
    limit = limit_of(query.get("limit"), default=_DEFAULT, most=_MOST)
    found = await services(request).listing.page(caller, asked, limit=limit, cursor=query.get("cursor"))
    return Response(found.model_dump_json(exclude={"data": {"__all__": {"output"}}}), media_type="application/json")


def _states(given: list[str]) -> list[State]:
    names = dict.fromkeys(name for text in given for name in text.split(","))
    known = [state for state in State if state.value in names]
    if len(known) < len(names):
        wrong = next(name for name in names if name not in known)
        raise InvalidInput(f"state must be one of {', '.join(State)}, not {wrong[:40]!r}")
    return known


def _labels(given: list[str]) -> list[str]:
    if len(given) > _MOST_LABELS:
        raise InvalidInput(f"a job has at most {_MOST_LABELS} labels")
    wrong = next((text for text in given if ":" not in text), None)
    if wrong is not None:
        raise InvalidInput(f"label must be name:value, not {wrong[:40]!r}")
    return given


@router.get(
    "/{job_id}",
    summary="Read a job, or wait for its end",
    response_model=None,
    responses={200: {"model": Job}, **problems(401, 403, 404, 422, 503)},
    openapi_extra=WAIT_QUERY,
)
async def read(request: Request, job_id: str) -> Response:
    """200 in any state. With `?wait=N` (or `Prefer: wait=N`) it is held until the job has ended, N seconds at most."""
    parts = services(request)
    wait_s, caller = held_s(request, parts.settings.max_wait_s), caller_of(request, Scope.READ)
    if not wait_s:
        return job_response(await parts.jobs.get(job_id, caller))
    job, waiting = await parts.jobs.follow(job_id, caller)
    await parts.jobs.wait(job_id, waiting, wait_s, request.receive)
    if not job.state.terminal:
        job = await parts.jobs.get(job_id, caller)
    return job_response(job, applied=f"wait={wait_s:g}")


@router.delete(
    "/{job_id}",
    summary="Cancel a job",
    response_model=None,
    responses={200: {"model": Job}, **problems(401, 403, 404, 503)},
)
async def cancel(request: Request, job_id: str) -> Response:
    """A queued job ends at once, a running one with its batch; one that has ended stays as it is."""
    return job_response(await services(request).jobs.cancel(job_id, caller_of(request, Scope.SUBMIT)))
