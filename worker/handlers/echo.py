"""The task `echo`: gives back what it got. For tests and benchmarks of everything around a model; no torch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from shared.tasks import ECHO, EchoParameters
from worker.handler import Handler, Prepared

_STEPS, _SHORTEST_STEP_S = 10, 0.05


@dataclass(slots=True, frozen=True)
class _Echo:
    value: Any
    sleep_ms: float
    fail: str | None


class Echo(Handler[Any, Any]):
    """A batch takes the longest `sleep_ms` of its items, and tells how far each is; one item with `fail` makes all of
    it raise, so that the bisection around `predict` is what singles it out."""

    io: ClassVar = ECHO
    example: ClassVar = [{"hello": "world"}]
    uses_torch: ClassVar = False
    quick: ClassVar = True

    def prepare(self, item: Any, parameters: EchoParameters) -> Prepared:
        """Any JSON value."""
        return Prepared(_Echo(item, parameters.sleep_ms, parameters.fail))

    def predict(self, batch: list[_Echo]) -> list[Any]:
        """Sleep, then the same values."""
        failures = [echo.fail for echo in batch if echo.fail is not None]
        if failures:
            raise RuntimeError(failures[0])
        pause_s = max(echo.sleep_ms for echo in batch) / 1000
        if pause_s:
            self._sleep(pause_s, batch)
        return [echo.value for echo in batch]

    def _sleep(self, pause_s: float, batch: list[_Echo]) -> None:
        begun, steps = time.monotonic(), min(_STEPS, int(pause_s / _SHORTEST_STEP_S)) or 1
        for step in range(1, steps + 1):
            time.sleep(max(0.0, begun + pause_s * step / steps - time.monotonic()))
            passed_ms = 1000 * pause_s * step / steps
            for position, echo in enumerate(batch if step < steps else ()):
                if echo.sleep_ms:
                    self.progress(position, passed_ms / echo.sleep_ms)
