"""The task `echo`: gives back what it got. For tests and benchmarks of everything around a model; no torch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from shared.tasks import ECHO, EchoParameters
from worker.handler import Handler, Prepared


@dataclass(slots=True, frozen=True)
class _Echo:
    value: Any
    sleep_ms: float
    fail: str | None


class Echo(Handler[Any, Any]):
    """A batch takes the longest `sleep_ms` of its items; one item with `fail` makes the whole batch raise, so that
    the bisection around `predict` is what singles it out."""

    io: ClassVar = ECHO
    example: ClassVar = [{"hello": "world"}]
    uses_torch: ClassVar = False

    def prepare(self, item: Any, parameters: EchoParameters) -> Prepared:
        """Any JSON value."""
        return Prepared(_Echo(item, parameters.sleep_ms, parameters.fail))

    def predict(self, batch: list[_Echo]) -> list[Any]:
        """Sleep, then the same values."""
        failures = [echo.fail for echo in batch if echo.fail is not None]
        if failures:
            raise RuntimeError(failures[0])
        pause_ms = max(echo.sleep_ms for echo in batch)
        if pause_ms:
            time.sleep(pause_ms / 1000)
        return [echo.value for echo in batch]
