"""Our side of the loss benchmark: the same job as `benchmarks/loss_task.py`, one item after the other."""

from __future__ import annotations

import os
import time
from typing import Any, ClassVar

from pydantic import BaseModel

from benchmarks.loss_runs import record
from worker.handler import Handler


class Order(BaseModel):
    """One job. A negative number is warm-up."""

    number: int = -1
    ms: float = 0
    abort: bool = False
    payload: str = ""


class Done(BaseModel):
    """Its answer."""

    number: int


class Loss(Handler[Order, Done]):
    """Sleeps for each item, and gives its number back."""

    task = "loss"
    example: ClassVar = [Order()]
    uses_torch: ClassVar = False

    def predict(self, batch: list[Order]) -> Any:
        """As a model that gains nothing from batches would take."""
        for order in batch:
            record(order.number)
            if order.abort:
                os.abort()
            time.sleep(order.ms / 1000)
        return [Done(number=order.number) for order in batch]
