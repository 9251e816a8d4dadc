"""Handlers whose batches have something to measure."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from worker.handler import Context, Handler, ItemError, Prepared


class Text(BaseModel):
    text: str


class Words(Handler[Text, Text]):
    """Pads to its longest; has no memory for more than one text with the word `large`, and no answer to `wrong`."""

    task = "words"
    example = [Text(text="one two")]
    padded = True
    uses_torch = False

    def prepare(self, item: Text, parameters: Any) -> Prepared:
        """A word costs one."""
        return Prepared(item, cost=len(item.text.split()))

    def predict(self, batch: list[Text]) -> list[Text | ItemError]:
        """The texts."""
        if len(batch) > 1 and any("large" in item.text for item in batch):
            raise MemoryError("the device is full")
        return [ItemError("no", code="predict_error") if item.text == "wrong" else item for item in batch]


class Broken(Words):
    """Does not load."""

    def load(self, ctx: Context) -> None:
        """Raises."""
        raise RuntimeError("told to")
