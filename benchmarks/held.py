"""A model that holds a device as a GPU would, and needs no CPU for it: it sleeps."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from pydantic import BaseModel

from worker.handler import Context, Handler


class Asked(BaseModel):
    """One item."""

    number: int = 0


class Ran(BaseModel):
    """Its number, and how many items its batch had."""

    number: int
    batch: int


class Held(Handler[Asked, Ran]):
    """A batch takes `held_s` however full it is (as a small model's on a GPU), so one that is half full wastes half of
    the device."""

    task = "held"
    example: ClassVar = [Asked()]
    uses_torch: ClassVar = False

    def load(self, ctx: Context) -> None:
        """Of models.yaml, the version's `held_s`: seconds a batch."""
        self._held_s = float(ctx.options["held_s"])

    def predict(self, batch: list[Asked]) -> Any:
        """Who asked gets his number back."""
        time.sleep(self._held_s)
        return [Ran(number=item.number, batch=len(batch)) for item in batch]
