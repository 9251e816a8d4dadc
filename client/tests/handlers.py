"""A model of the tests' own, run by the service's worker."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

from pydantic import BaseModel
from worker.handler import Handler


class Blob(BaseModel):
    """Any bytes."""

    image: Any


class Digest(Handler[Blob, str]):
    """What came, by its digest."""

    task = "digest"
    example: ClassVar = [Blob(image=b"")]
    uses_torch: ClassVar = False

    def predict(self, batch: list[Blob]) -> list[str]:
        """SHA-256 of bytes; of anything else its type."""
        images = [item.image for item in batch]
        return [
            hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else type(image).__name__ for image in images
        ]
