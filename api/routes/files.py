"""`/v1/files`: what is too large to stand in a request, or is used by many jobs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from api.answers import json_response
from api.auth import caller_of
from api.content_types import plain_kind
from api.deps import services
from api.docs import problems
from api.multipart import one_file
from api.schemas import FileTold
from shared.api_keys import Scope

router = APIRouter(prefix="/v1/files")

_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,60}/[a-z0-9!#$&^_.+-]{1,60}", re.ASCII)
_OCTETS = "application/octet-stream"
_BODY = {
    "requestBody": {
        "required": False,  # a file may be empty
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
}


@router.post(
    "",
    summary="Upload a file",
    status_code=201,
    response_model=None,
    responses={201: {"model": FileTold}, **problems(400, 401, 403, 408, 409, 413, 503)},
    openapi_extra=_BODY,
)
async def upload(request: Request) -> Response:
    """The body as it is, with its own content type, or multipart with one file. It is stored piece by piece. Then an
    input may name it, in the place of bytes or of all of it: `{"$file": "file_..."}`."""
    caller = caller_of(request, Scope.SUBMIT)
    kind = request.headers.get("content-type", "")
    pieces: AsyncIterator[bytes] = request.stream()
    length: int | None = None
    if plain_kind(kind) == "multipart/form-data":
        kind, pieces = await one_file(pieces, kind)
    elif request.headers.get("content-length", "").isdigit():
        length = int(request.headers["content-length"])
    told = await services(request).files.add(caller, pieces, content_type=plain_type(kind), length=length)
    return json_response(told, 201, {"Location": f"/v1/files/{told.id}"})


@router.get(
    "/{file_id}",
    summary="What is known of a file",
    response_model=FileTold,
    responses=problems(401, 403, 404, 503),
)
async def read(request: Request, file_id: str) -> Any:
    """Of one that can be used."""
    return (await services(request).files.get(file_id, caller_of(request, Scope.READ))).told


@router.get(
    "/{file_id}/content",
    summary="A file's bytes",
    response_model=None,
    responses={
        200: {"content": {_OCTETS: {"schema": {"type": "string", "format": "binary"}}}},
        **problems(401, 403, 404, 503),
    },
)
async def content(request: Request, file_id: str) -> Response:
    """As they were uploaded, with their content type; for saving, never for a browser to show."""
    parts = services(request)
    file = await parts.files.get(file_id, caller_of(request, Scope.READ))
    headers = {
        "Content-Length": str(file.told.bytes),
        "Content-Disposition": f'attachment; filename="{quote(file_id)}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, no-store",
    }
    first = await parts.payloads.chunk(file.ref, 0)  # a store that is away is told by the status

    async def all_of_it() -> AsyncIterator[bytes]:
        yield first
        for number in range(1, file.ref.count):
            yield await parts.payloads.chunk(file.ref, number)

    return StreamingResponse(all_of_it(), headers=headers, media_type=file.told.content_type)


@router.delete(
    "/{file_id}",
    summary="Delete a file",
    status_code=204,
    response_model=None,
    responses=problems(401, 403, 404, 503),
)
async def delete(request: Request, file_id: str) -> Response:
    """It cannot be used or read any more. Jobs that have it in their input still run; its bytes go with the last of
    them."""
    await services(request).files.delete(file_id, caller_of(request, Scope.SUBMIT))
    return Response(status_code=204)


def plain_type(told: str) -> str:
    """A content type without its parameters; what is none is bytes."""
    kind = plain_kind(told)
    return kind if _TYPE.fullmatch(kind) else _OCTETS
