"""A handler of bytes, run by real workers."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel

from shared.tasks import Blob
from worker.handler import Handler


class Bytes(BaseModel):
    """Some bytes; and how long the answer is to be beside their digest."""

    data: Blob = b""
    repeat: int = 0


class Digest(Handler[Bytes, Any]):
    """The SHA-256 of each."""

    task = "digest"
    example = [Bytes(data=b"x")]
    uses_torch = False

    def predict(self, batch: list[Bytes]) -> list[Any]:
        """Number of bytes, digest, and padding."""
        return [
            {"bytes": len(one.data), "sha256": hashlib.sha256(one.data).hexdigest(), "padding": "x" * one.repeat}
            for one in batch
        ]
