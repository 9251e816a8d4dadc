"""A model whose versions differ in what they answer, what they take, and whether they load; run by real workers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from worker.handler import Context, Handler


class Call(BaseModel):
    """Anything."""

    n: int = 0


class Answer(BaseModel):
    """Which version answered, by its own option."""

    n: int
    says: str


class Versioned(Handler[Call, Answer]):
    """Options: `says`; `mb` that it takes; `broken`, a file while which exists it does not load; `predict_ms`."""

    task = "versioned"
    example = [Call()]
    uses_torch = False

    def load(self, ctx: Context) -> None:
        """Raises while it is broken."""
        if Path(ctx.options.get("broken", "/nowhere")).exists():
            raise OSError("no weights here")
        self.weights = bytearray(b"x") * (1_000_000 * int(ctx.options.get("mb", 0)))
        self.says = str(ctx.options["says"])
        self.predict_s = float(ctx.options.get("predict_ms", 0)) / 1000
        self.most = ctx.max_batch_size

    def predict(self, batch: list[Call]) -> Any:
        """In the time that the whole batch takes."""
        time.sleep(self.predict_s)
        return [Answer(n=call.n, says=self.says) for call in batch]

    def unload(self) -> None:
        """All of it."""
        self.weights = bytearray()
