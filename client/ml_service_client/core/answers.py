"""From an answer to what it means: JSON, or the exception for its `code`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx

from ml_service_client.errors import JobError, MLServiceError, UnexpectedAnswer
from ml_service_client.problems import PROBLEMS
from ml_service_client.types import Json, faults

if TYPE_CHECKING:
    from ml_service_client.types import Job


def body_of(response: httpx.Response) -> Any:
    """The JSON of an answer. Raises UnexpectedAnswer."""
    try:
        return json.loads(response.content)
    except ValueError:
        told = f"{response.request.url} answered {response.status_code} without JSON: is it an ml-service?"
        raise UnexpectedAnswer(told, request=response.request, response=response) from None


def dict_of(response: httpx.Response) -> Json:
    """The same, for an object."""
    body = body_of(response)
    if not isinstance(body, dict):
        told = f"{response.request.url} answered {response.status_code} with a {type(body).__name__}, not an object"
        raise UnexpectedAnswer(told, request=response.request, response=response)
    return body


def problem_of(response: httpx.Response) -> Json:
    """The problem document (RFC 9457, or OpenAI's `error`) of an answer; empty where there is none."""
    try:
        body = json.loads(response.content)
    except ValueError:
        return {}
    if not isinstance(body, dict):
        return {}
    error = body.get("error")
    if "code" not in body and isinstance(error, dict):
        return {"code": error.get("code"), "detail": error.get("message")}
    return body


def id_of(given: object) -> str:
    """The id of a job, a batch or a file, given as itself, as its id, or as its URL."""
    found = given if isinstance(given, str) else getattr(given, "id", None)
    if not isinstance(found, str) or not found:
        raise TypeError(f"an id, or what has one, not {given!r}")
    return found.rstrip("/").rpartition("/")[2]


def error_of(response: httpx.Response, retry_after_s: float | None = None) -> MLServiceError:
    """The exception for an answer that is an error."""
    told = problem_of(response)
    code, job = told.get("code"), told.get("job")
    detail = told.get("detail") or f"{response.request.method} {response.request.url.path}: {response.reason_phrase}"
    kind = PROBLEMS.get(code, MLServiceError) if isinstance(code, str) else MLServiceError
    errors = told.get("errors")
    return kind(
        str(detail),
        request=response.request,
        response=response,
        code=code if isinstance(code, str) else f"http_{response.status_code}",
        errors=faults(errors) if isinstance(errors, list) else (),
        job=id_of(job) if isinstance(job, str) else None,
        retry_after_s=retry_after_s,
        request_id=response.headers.get("x-request-id"),
    )


def job_error(job: Job) -> JobError:
    """The exception for a job that has ended badly."""
    code = job.error.code if job.error else "canceled" if job.state == "canceled" else "predict_error"
    detail = job.error.message if job.error else f"the job was {job.state}"
    kind = PROBLEMS.get(code, JobError)
    if not issubclass(kind, JobError):
        kind = JobError
    where = f"/v1/jobs/{job.id}"
    body = {"status": kind.default_status, "detail": detail, "code": code, "instance": f"{where}/output", "job": where}
    request = httpx.Request("GET", f"{where}/output")
    response = httpx.Response(
        kind.default_status,
        headers={"content-type": "application/problem+json"},
        content=json.dumps(body).encode(),
        request=request,
    )
    return kind(
        detail,
        request=request,
        response=response,
        code=code,
        errors=job.error.errors if job.error else (),
        job=job.id,
        request_id=job.request_id,
    )
