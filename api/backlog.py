"""A job that was refused because of what waits before it: when to come again, by the measured speed of the queue."""

from __future__ import annotations

import math

from shared.catalog import Ref
from shared.errors import DeadlineImpossible, QueueFull, RateLimited
from shared.scripts import Submitted


def refused(ref: Ref, submitted: Submitted, deadline_ms: int, limit: int) -> QueueFull | DeadlineImpossible:
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
        limit=limit,
    )


def too_many(submitted: Submitted, limit: int) -> RateLimited:
    """The error to raise for a submit that was `busy`. When one of the caller's jobs will end, nobody knows."""
    where = "" if submitted.limit == "concurrent" else " of this model"
    return RateLimited(
        f"{submitted.jobs} of your jobs{where} have not ended, and you may have {limit} at a time",
        policies=[submitted.limit],
        headers={
            "RateLimit-Policy": f'"{submitted.limit}";q={limit};qu="concurrent-requests"',
            "RateLimit": f'"{submitted.limit}";r=0;t=1',
        },
    )


def _seconds(ms: int) -> int:
    return min(60, max(1, math.ceil(ms / 1000)))
