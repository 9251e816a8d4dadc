"""`/v1/batches`: many inputs in one call."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.datastructures import QueryParams

from api.answers import json_response
from api.auth import caller_of
from api.batch_bodies import read_batch
from api.batches import MOST_LISTED
from api.deps import Services, services
from api.docs import BATCH_BODY, BATCHES_QUERY, RESULTS_QUERY, WAIT_QUERY, links, problems
from api.errors import batch_url
from api.query import held_s, idempotency_key, known_query, limit_of
from shared.api_keys import Scope
from shared.batches import Batch, BatchPage
from shared.errors import InvalidInput
from shared.keys import MOST_LINES

router = APIRouter(prefix="/v1/batches")

_LINKS = links(
    {"batch_id": "id"},
    "GET /v1/batches/{batch_id}",
    "GET /v1/batches/{batch_id}/results",
    "DELETE /v1/batches/{batch_id}",
)


def _response(batch: Batch, *, status: int = 200, applied: str | None = None) -> Response:
    headers = {"Location": batch_url(batch.id)}
    if applied:
        headers["Preference-Applied"] = applied
    return json_response(batch, status, headers)


@router.post(
    "",
    summary="Queue many inputs",
    status_code=202,
    response_model=None,
    responses={
        202: {"model": Batch, "links": _LINKS, "description": "Accepted"},
        200: {
            "model": Batch,
            "links": _LINKS,
            "description": "It has ended already (a repeated Idempotency-Key, or no input fits)",
        },
        **problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
    },
    openapi_extra=BATCH_BODY,
)
async def submit(request: Request) -> Response:
    """1 to 100,000 inputs, as a list in a JSON object, or one a line with the envelope in the query. An input that
    does not fit fails its own line. `Idempotency-Key`: the same key and payload is the same batch; another payload 422.
    """
    parts = services(request)
    new, slices = await read_batch(request, parts.catalog, longest=parts.settings.max_body_bytes)
    new.idempotency_key = idempotency_key(request)
    batch = await parts.batches.accept(new, slices)
    return _response(batch, status=200 if batch.state.terminal else 202)


@router.get(
    "",
    summary="Your batches",
    response_model=None,
    responses={200: {"model": BatchPage}, **problems(401, 403, 422, 503)},
    openapi_extra=BATCHES_QUERY,
)
async def page(request: Request) -> Response:
    """Those of your key, the newest first. `next` is the `cursor` of the next page."""
    query, caller = request.query_params, caller_of(request, Scope.READ)
    known_query(request, "limit", "cursor")
    limit = limit_of(query.get("limit"), default=50, most=MOST_LISTED)
    return json_response(await services(request).batches.page(caller, limit=limit, cursor=query.get("cursor")))


@router.get(
    "/{batch_id}",
    summary="Read a batch, or wait for its end",
    response_model=None,
    responses={200: {"model": Batch}, **problems(401, 403, 404, 422, 503)},
    openapi_extra=WAIT_QUERY,
)
async def read(request: Request, batch_id: str) -> Response:
    """Counts, rate and ETA. With `?wait=N` it is held until the batch has ended, N seconds at most."""
    parts = services(request)
    wait_s, caller = held_s(request, parts.settings.max_wait_s), caller_of(request, Scope.READ)
    if not wait_s:
        return _response(await parts.batches.get(batch_id, caller))
    with parts.measures.waits.track_inprogress():
        batch = await parts.batches.wait(batch_id, caller, wait_s, request.receive)
    return _response(batch, applied=f"wait={wait_s:g}")


@router.delete(
    "/{batch_id}",
    summary="Cancel a batch",
    response_model=None,
    responses={200: {"model": Batch}, **problems(401, 403, 404, 503)},
)
async def cancel(request: Request, batch_id: str) -> Response:
    """No further line begins; those that run end as canceled with what they run in. What has ended stays as it is."""
    return _response(await services(request).batches.cancel(batch_id, caller_of(request, Scope.SUBMIT)))


@router.get(
    "/{batch_id}/results",
    summary="The results, as JSON lines",
    response_model=None,
    responses={
        200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}, "description": "One line an input"},
        **problems(401, 403, 404, 422, 503),
    },
    openapi_extra=RESULTS_QUERY,
)
async def results(request: Request, batch_id: str) -> Response:
    """In the order of the inputs, up to the first that has not ended; with `follow=true` to the end, as it comes."""
    parts: Services = services(request)
    caller = caller_of(request, Scope.READ)
    known_query(request, "start", "follow")
    start, follow = _asked(request.query_params)
    found = await parts.batches.results(batch_id, caller, lambda: parts.draining)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(found.stream(start, follow=follow), media_type="application/x-ndjson", headers=headers)


def _asked(query: QueryParams) -> tuple[int, bool]:
    start, follow = query.get("start", "0"), query.get("follow", "false")
    if not (start.isascii() and start.isdigit() and len(start) < 7 and int(start) <= MOST_LINES):
        raise InvalidInput(f"start must be a number from 0 to {MOST_LINES}, not {start[:40]!r}")
    if follow not in ("true", "false"):
        raise InvalidInput(f"follow must be true or false, not {follow[:40]!r}")
    return int(start), follow == "true"
