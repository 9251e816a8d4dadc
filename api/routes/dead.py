"""`/v1/dead`: list, show, retry and drop dead letters. For administrators."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from api.admin import admin_only
from api.answers import job_response, json_response
from api.deps import services
from api.docs import DEAD_QUERY, REQUEUE_QUERY, problems
from api.letters import Filter
from api.paths import LETTER
from api.query import known_query, limit_of
from api.schemas import LetterDetail, LetterPage, Requeued
from shared.types import Job

router = APIRouter(prefix="/v1/dead", dependencies=[Depends(admin_only)])

_DEFAULT, _MOST = 50, 100
_REQUEUE_DEFAULT, _REQUEUE_MOST = 1000, 10_000


@router.get(
    "",
    summary="Dead letters",
    response_model=None,
    responses={200: {"model": LetterPage}, **problems(401, 403, 422, 503)},
    openapi_extra=DEAD_QUERY,
)
async def page(request: Request) -> Response:
    """Messages that nobody could work on, the newest first. `next` is the `after` of the next page: with a filter a
    page may be short, or empty, and yet not the last."""
    query = request.query_params
    limit = limit_of(query.get("limit"), default=_DEFAULT, most=_MOST)
    found = await services(request).dead.page(limit, after=query.get("after"), wanted=_filter(request))
    return json_response(found)


@router.post(
    "/requeue",
    summary="Retry many dead letters",
    response_model=None,
    responses={200: {"model": Requeued}, **problems(401, 403, 422, 503)},
    openapi_extra=REQUEUE_QUERY,
)
async def requeue(request: Request) -> Response:
    """Each that the filter lets through becomes a new job, as by `retry`, the newest first. Those that cannot be
    retried stay, and are told."""
    query = request.query_params
    limit = limit_of(query.get("limit"), default=_REQUEUE_DEFAULT, most=_REQUEUE_MOST)
    return json_response(await services(request).dead.requeue(limit, after=query.get("after"), wanted=_filter(request)))


def _filter(request: Request) -> Filter:
    query = request.query_params
    known_query(request, "reason", "model", "label", "limit", "after")
    labels = tuple(label.partition(":")[::2] for label in query.getlist("label"))
    return Filter(query.get("reason"), query.get("model"), labels)


@router.get(
    f"/{LETTER}",
    summary="One dead letter",
    response_model=None,
    responses={200: {"model": LetterDetail}, **problems(401, 403, 404, 503)},
)
async def read(request: Request, letter: str) -> Response:
    """With its message, the input in it, and where the rest of the input lies."""
    return json_response(await services(request).dead.get(letter))


@router.post(
    f"/{LETTER}/retry",
    summary="Retry a dead letter",
    status_code=202,
    response_model=None,
    responses={202: {"model": Job, "description": "The new job"}, **problems(401, 403, 404, 409, 503)},
)
async def retry(request: Request, letter: str) -> Response:
    """A new job with the same input, under a new id; the letter is gone. It runs alone, with the service's default
    deadline, and is not refused when the queue is full."""
    return job_response(await services(request).dead.retry(letter), status=202)


@router.delete(
    f"/{LETTER}",
    summary="Drop a dead letter",
    status_code=204,
    response_model=None,
    responses={204: {"description": "The letter and its payloads are gone"}, **problems(401, 403, 404, 503)},
)
async def drop(request: Request, letter: str) -> Response:
    """For good. Its job, if there is one, has failed and stays readable as long as any."""
    await services(request).dead.drop(letter)
    return Response(status_code=204)
