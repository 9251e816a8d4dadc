"""`/v1/jobs/{id}/output`: what the model said, and nothing else."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.auth import caller_of
from api.binary import JSON, binary_response, takes_json, wants_binary
from api.deps import services
from api.docs import BINARY, problems
from api.errors import problem
from api.fallback import FALLBACK_FOR
from shared.api_keys import Scope
from shared.errors import NotAcceptable, NotEnded
from shared.types import Job, State

router = APIRouter(prefix="/v1/jobs")


@router.get(
    "/{job_id}/output",
    summary="A job's output alone",
    response_model=None,
    responses={
        200: {"description": "As JSON, or as bytes", "content": {JSON: {}, **BINARY}},
        **problems(401, 403, 404, 406, 409, 422, 500, 502, 503, 504, 507),
    },
)
async def output(request: Request, job_id: str) -> Response:
    """409 `not_ended` while there is none; for a job that did not succeed its own error, with the status that
    `/inference` would give. `Accept: application/octet-stream`: the embeddings as float32, little-endian, in C order,
    with `ML-Shape` and `ML-Dtype`."""
    parts = services(request)
    job, ref = await parts.jobs.for_output(job_id, caller_of(request, Scope.READ))
    if not job.state.terminal:
        return problem(request, NotEnded.code, f"the job is {job.state.value}", job_id=job.id)
    if job.state is not State.SUCCEEDED:
        return _failure(request, job)
    headers = {"ML-Model": f"{job.model}@{job.version}"}
    if job.fallback_for is not None:
        headers[FALLBACK_FOR] = job.fallback_for
    stored = None if ref is None else Stored(await parts.payloads.get(ref))
    octets = in_octets(request, job.output if stored is None else stored, headers)
    return octets or Response(stored or orjson.dumps(job.output), headers=headers, media_type=JSON)


class Stored(bytes):
    """An output as JSON, out of the payload store."""


def in_octets(request: Request, output: Any, headers: dict[str, str]) -> Response | None:
    """As bytes; None where the caller would rather have JSON, or takes that too and there is no array. Raises
    NotAcceptable."""
    accept = request.headers.getlist("accept")
    headers["Vary"] = "Accept"
    if not wants_binary(accept):
        return None
    try:
        return binary_response(orjson.loads(memoryview(output)) if isinstance(output, Stored) else output, headers)
    except NotAcceptable:
        if takes_json(accept):
            return None
        raise


def _failure(request: Request, job: Job) -> Response:
    error = job.error
    code, message = (error.code, error.message) if error else ("predict_error", "the job failed")
    return problem(request, code, message, faults=(error and error.errors) or (), job_id=job.id)
