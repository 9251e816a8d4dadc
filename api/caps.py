"""How large a request's body may be: ML_MAX_BODY_BYTES, but for the routes that read it piece by piece."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Scope

from api.content_types import JSON_LINES, content_type
from shared.settings import Settings

_MULTIPART_BYTES = 100_000  # around a file
Cap = Callable[[Scope], int]


def body_cap(settings: Settings) -> Cap:
    """For BodyCap and Inflate."""

    def most(scope: Scope) -> int:
        if scope["method"] == "POST" and scope["path"] == "/v1/files":
            return settings.most_file_bytes + _MULTIPART_BYTES
        streamed = scope["method"] == "POST" and scope["path"] == "/v1/batches" and content_type(scope) in JSON_LINES
        return settings.max_batch_bytes if streamed else settings.max_body_bytes

    return most
