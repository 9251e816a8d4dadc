"""What a route answers with."""

from __future__ import annotations

from fastapi.responses import Response
from pydantic import BaseModel


def json_response(body: BaseModel, status: int = 200) -> Response:
    """A model as JSON."""
    return Response(body.model_dump_json(), status, media_type="application/json")
