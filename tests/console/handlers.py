"""Handlers whose answers the console draws."""

from __future__ import annotations

import base64
import io
from typing import Any, ClassVar

from PIL import Image
from pydantic import BaseModel

from shared.task import Blob, Strict
from worker.handler import Handler

HOSTILE = "<img src=x onerror=alert(1)>"


class Photo(Strict):
    """An image."""

    image: Blob


class Painter(Handler[Photo, Any]):
    """Finds a box, or a mask, whose name is an attack; which one, the image's width says."""

    uses_torch = False

    def predict(self, batch: list[Photo]) -> list[Any]:
        return [self._one(Image.open(io.BytesIO(one.image))) for one in batch]

    def _one(self, image: Image.Image) -> Any:
        width, height = image.size
        if width > height:
            box = {"xmin": width // 4, "ymin": height // 4, "xmax": width // 2, "ymax": height // 2}
            return [{"label": HOSTILE, "score": 0.9, "box": box}]
        mask = Image.new("L", image.size)
        mask.paste(255, (0, 0, width // 2, height))
        out = io.BytesIO()
        mask.save(out, "PNG")
        return [{"label": HOSTILE, "score": 0.8, "mask": base64.b64encode(out.getvalue()).decode()}]


class Odd(Handler[Photo, Any]):
    """Answers what no view can draw, though it looks like something."""

    uses_torch = False

    def predict(self, batch: list[Photo]) -> list[Any]:
        return [
            [{"label": "a", "score": 0.5, "box": {"xmin": None}}, {"label": "b", "mask": "no base64!"}] for _ in batch
        ]


class Sentence(BaseModel):
    """A text."""

    text: str


class Reader(Handler[Sentence, Any]):
    """Takes each word with a capital letter for a name."""

    uses_torch = False
    example: ClassVar = [Sentence(text="Oslo and 🦆 Bergen")]

    def predict(self, batch: list[Sentence]) -> list[Any]:
        return [list(self._names(one.text)) for one in batch]

    def _names(self, text: str) -> Any:
        at = 0
        for word in text.split(" "):
            if word[:1].isupper():
                yield {"entity_group": "NAME", "word": word, "score": 0.99, "start": at, "end": at + len(word)}
            at += len(word) + 1
