"""A job that was refused because of what waits before it: when to come again, by the measured speed of the queue."""

from __future__ import annotations

import math

from shared.catalog import Ref
from shared.errors import DeadlineImpossible, QueueFull
from shared.scripts import Submitted


def refused(ref: Ref, submitted: Submitted, deadline_ms: int) -> QueueFull | DeadlineImpossible:
    """The error to raise for a submit that was `full` or `late`. Retry-After is when what waits now is done, or when
    the queue is short enough for this deadline: 1 to 60 s, and 1 where nothing was measured yet."""
    if submitted.status == "late":
        return DeadlineImpossible(
            f"the queue of {ref} is too long for this deadline: a job submitted now would begin in about "
            f"{submitted.wait_ms / 1000:.0f} s, after its deadline of {deadline_ms / 1000:g} s",
            retry_after_s=_seconds(submitted.wait_ms - deadline_ms),
        )
    return QueueFull(
        f"the queue of {ref} is full: {submitted.jobs} jobs with {submitted.size} bytes of input are waiting or "
        "running",
        retry_after_s=_seconds(submitted.wait_ms),
    )


def _seconds(ms: int) -> int:
    return min(60, max(1, math.ceil(ms / 1000)))
