"""What a route answers with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi.responses import Response
from pydantic import BaseModel

from api.errors import job_url
from api.submission import Ticket


def json_response(
    body: BaseModel | dict[str, Any] | list[Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A model, or what orjson knows, as JSON."""
    text = body.model_dump_json() if isinstance(body, BaseModel) else orjson.dumps(body)
    return Response(text, status, headers, "application/json")


def job_headers(ticket: Ticket) -> dict[str, str]:
    """Of an answer with a job's output: where the job is read, and which version it ran."""
    return {"Location": job_url(ticket.job_id), "ML-Model": str(ticket.ref)}
