"""Errors on the wire: one table from code to HTTP status, and RFC 9457 problem documents."""

from __future__ import annotations

import http
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from api.dialects import translate
from shared.errors import DeadlineImpossible, Fault, QueueFull, RateLimited, ServiceError, Unauthorized, WaitEnded

PROBLEM_JSON = "application/problem+json"

STATUS: dict[str, int] = {
    # How a job ended.
    "invalid_input": 422,
    "predict_error": 500,
    "handler_contract": 500,
    "attempts_exhausted": 500,
    "out_of_memory": 507,
    "timeout": 504,
    "deadline_exceeded": 504,
    "model_unavailable": 503,
    "canceled": 409,
    "provider_error": 502,
    # How a call is refused.
    "bad_request": 400,
    "not_found": 404,
    "model_not_found": 404,
    "job_not_found": 404,
    "not_ended": 409,
    "not_acceptable": 406,
    "batch_not_found": 404,
    "letter_not_found": 404,
    "worker_not_found": 404,
    "unauthorized": 401,
    "forbidden": 403,
    "key_not_found": 404,
    "rate_limited": 429,
    "cannot_retry": 409,
    "cannot_redeliver": 409,
    "version_exists": 409,
    "version_in_use": 409,
    "nothing_to_roll_back": 409,
    "precondition_failed": 412,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "payload_too_large": 413,
    "uri_too_long": 414,
    "unsupported_media_type": 415,
    "idempotency_mismatch": 422,
    "headers_too_large": 431,
    "address_refused": 422,
    "call_failed": 502,
    "file_not_found": 404,
    "files_full": 409,
    "payloads_unavailable": 503,
    "queue_full": 503,
    "store_unavailable": 503,
    "store_too_old": 503,
    "wait_ended": 504,
    "record_unreadable": 500,
    "internal_error": 500,
}

# SDKs retry 5xx by themselves: the work is done or still under way, and another call would double it.
NO_RETRY = {"timeout", "deadline_exceeded", "wait_ended", "out_of_memory", "predict_error", "handler_contract"}
NO_RETRY |= {"attempts_exhausted", "canceled", "provider_error"}

STORE_RETRY_AFTER_S = 2

# https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (section "Problem Types")
_PROBLEM_TYPES = "https://iana.org/assignments/http-problem-types#"
_TYPES = {
    ("rate_limited", 429): f"{_PROBLEM_TYPES}quota-exceeded",
    ("queue_full", 503): f"{_PROBLEM_TYPES}temporary-reduced-capacity",
}


def job_url(job_id: str) -> str:
    """Where a job is read: a path, so that it is right under any host name (a proxy may put no prefix before it)."""
    return f"/v1/jobs/{job_id}"


def batch_url(batch_id: str) -> str:
    """Where a batch is read, as of a job."""
    return f"/v1/batches/{batch_id}"


def document(code: str, detail: str, *, status: int) -> dict[str, Any]:
    """RFC 9457's fields, without those that a request adds."""
    title = http.HTTPStatus(status).phrase
    kind = _TYPES.get((code, status), "about:blank")
    return {"type": kind, "title": title, "status": status, "detail": detail, "code": code}


def problem(
    request: Request,
    code: str,
    detail: str,
    *,
    faults: Sequence[Fault] = (),
    job_id: str | None = None,
    headers: dict[str, str] | None = None,
    status: int | None = None,
    more: Mapping[str, Any] | None = None,
) -> Response:
    """A problem document, or what the path's callers read in its place (api/dialects.py). `faults` point into the
    request's body; `job_id` adds the job's URL; `more` are members of its own."""
    status = status or STATUS.get(code, 500)
    if job_id is None:
        request.scope.setdefault("state", {})["refused"] = code  # for the metrics: a job's own end is no refusal
    body = document(code, detail, status=status) | {"instance": request.url.path, **(more or {})}
    out = dict(headers or {})
    if faults:
        body["errors"] = [fault.model_dump() for fault in faults]
    if job_id is not None:
        body["job"] = out["Location"] = job_url(job_id)
    if code in NO_RETRY and "Retry-After" not in out:
        out["x-should-retry"] = "false"
    if code in ("store_unavailable", "store_too_old", "payloads_unavailable"):
        out.setdefault("Retry-After", str(STORE_RETRY_AFTER_S))
    translated = translate(request.url.path, body)
    if translated is not None:
        return Response(orjson.dumps(translated[1]), translated[0], out, "application/json")
    return Response(orjson.dumps(body), status, out, PROBLEM_JSON)


def error_problem(request: Request, error: ServiceError) -> Response:
    """The problem document of one of our errors."""
    headers: dict[str, str] = {}
    status, more = None, None
    if isinstance(error, RateLimited):
        headers |= {**error.headers, "Retry-After": str(error.retry_after_s)}
        more = {"violated-policies": error.policies}
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, QueueFull | DeadlineImpossible):
        # A refusal, not a job's end: to come again later is just what is asked for.
        headers["Retry-After"], status = str(error.retry_after_s), 503
        if isinstance(error, QueueFull):
            headers["RateLimit-Policy"] = f'"queue";q={error.limit}'
            headers["RateLimit"] = f'"queue";r=0;t={error.retry_after_s}'
            more = {"violated-policies": ["queue"]}
    job_id = error.job_id if isinstance(error, WaitEnded) else None
    return problem(
        request,
        error.code,
        error.message,
        faults=error.faults,
        job_id=job_id,
        headers=headers,
        status=status,
        more=more,
    )


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101 - registered for this class
    return error_problem(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_allowed(request)))  # Starlette's own tells of one route, not of the path
    detail = f"no such path: {request.url.path}" if error.status_code == 404 else str(error.detail)
    return problem(request, code, detail, headers=headers, status=error.status_code)


def _allowed(request: Request) -> set[str]:
    routes = request.app.routes
    return {
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    }


class CallerGone(Exception):
    """The caller has closed the connection."""


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


def add_error_handlers(app: FastAPI) -> None:
    """Every error of ours, and the framework's own, as a problem document."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(CallerGone, _gone)
