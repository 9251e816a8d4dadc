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

from shared.errors import DeadlineImpossible, Fault, QueueFull, ServiceError, WaitEnded

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
    # How a call is refused.
    "bad_request": 400,
    "not_found": 404,
    "model_not_found": 404,
    "job_not_found": 404,
    "letter_not_found": 404,
    "forbidden": 403,
    "cannot_retry": 409,
    "version_exists": 409,
    "version_in_use": 409,
    "nothing_to_roll_back": 409,
    "precondition_failed": 412,
    "method_not_allowed": 405,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "idempotency_mismatch": 422,
    "queue_full": 503,
    "store_unavailable": 503,
    "store_too_old": 503,
    "wait_ended": 504,
    "internal_error": 500,
}

# SDKs retry 5xx by themselves: the work is done or still under way, and another call would double it.
NO_RETRY = {"timeout", "deadline_exceeded", "wait_ended", "out_of_memory", "predict_error", "handler_contract"}
NO_RETRY |= {"attempts_exhausted"}

STORE_RETRY_AFTER_S = 2


def job_url(job_id: str) -> str:
    """Where a job is read; relative, so that it is right behind any proxy."""
    return f"/v1/jobs/{job_id}"


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
    """A problem document. `faults` point into the request's body; `job_id` adds the job's URL; `more` are members of
    its own."""
    status = status or STATUS.get(code, 500)
    if job_id is None:
        request.scope.setdefault("state", {})["refused"] = code  # for the metrics: a job's own end is no refusal
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "code": code,
        **(more or {}),
    }
    out = dict(headers or {})
    if faults:
        body["errors"] = [fault.model_dump() for fault in faults]
    if job_id is not None:
        body["job"] = out["Location"] = job_url(job_id)
    if code in NO_RETRY and "Retry-After" not in out:
        out["x-should-retry"] = "false"
    if code in ("store_unavailable", "store_too_old"):
        out.setdefault("Retry-After", str(STORE_RETRY_AFTER_S))
    return Response(orjson.dumps(body), status, out, PROBLEM_JSON)


def error_problem(request: Request, error: ServiceError) -> Response:
    """The problem document of one of our errors."""
    headers, status = {}, None
    if isinstance(error, QueueFull | DeadlineImpossible):
        # A refusal, not a job's end: to come again later is just what is asked for.
        headers["Retry-After"], status = str(error.retry_after_s), 503
    job_id = error.job_id if isinstance(error, WaitEnded) else None
    return problem(
        request, error.code, error.message, faults=error.faults, job_id=job_id, headers=headers, status=status
    )


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101 - registered for this class
    return error_problem(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    headers = dict(error.headers or {})
    detail = f"no such path: {request.url.path}" if error.status_code == 404 else str(error.detail)
    return problem(request, code, detail, headers=headers, status=error.status_code)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


def add_error_handlers(app: FastAPI) -> None:
    """Every error of ours, and the framework's own, as a problem document."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
