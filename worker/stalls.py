"""Calls of a handler that take longer than their model's timeout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

from worker.work import Work

Step = Literal["prepare", "predict", "finish"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stall:
    """The jobs that such a call is of."""

    step: Step
    works: list[Work]


@dataclass(frozen=True, slots=True)
class _Call:
    step: Step
    work: Work
    begun: float


class HostCalls:
    """The calls of `prepare` and `finish`, in whatever thread, at most one each. Any thread."""

    def __init__(self) -> None:
        self._under_way: dict[int, _Call] = {}

    def make(self, step: Step, work: Work, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `call` returns or raises."""
        thread = threading.get_ident()
        self._under_way[thread] = _Call(step, work, time.monotonic())
        try:
            return call(*args, **kwargs)
        finally:
            del self._under_way[thread]

    def stall(self) -> Stall | None:
        """One that is overdue, or None."""
        overdue = (call for call in tuple(self._under_way.values()) if is_overdue(call.work, call.begun))
        return next((Stall(call.step, [call.work]) for call in overdue), None)


def is_overdue(work: Work, begun: float) -> bool:
    """Whether a call of this job, since `begun` (monotonic), takes too long. Accepted work only."""
    return time.monotonic() - begun > work.patience_s
