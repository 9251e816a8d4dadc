"""What a worker traces: each job from its take to its outcome, and each batch.

A job's span is a child of the span that sent it; a second attempt is a second span in the same trace. A batch runs
jobs of many traces, and a span has one parent: it is a child of the first of its jobs that is sampled, and linked with
all of them, both ways.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared import keys, tracing
from shared.trace_context import TraceContext
from shared.tracing import NO_SPAN, Span
from shared.types import Outcome, State
from worker.work import Unit, Work


def begin_job(work: Work, parent: TraceContext | None) -> Span:
    """It is in this worker's hands."""
    if not tracing.on():
        return NO_SPAN
    queue = keys.queue_name(work.ref.model, work.ref.version)
    told = tracing.messaging("process", "process", queue, work.job_id)
    told |= {"ml.model": work.ref.model, "ml.version": work.ref.version}
    told |= {"ml.request_id": work.request_id} if work.request_id else {}
    return tracing.start(f"process {queue}", "CONSUMER", parent=parent, attributes=told)


def end_job(work: Work, outcome: str, *, failed: bool = False) -> None:
    """How it left this worker's hands: its state or error code, or that it goes to another."""
    span = work.span
    if not span.recorded:
        return
    span.set(
        {
            "ml.outcome": outcome,
            "ml.attempt": work.attempt or None,
            "ml.queue_ms": max(0, work.started_at - work.queued_at) if work.started_at and work.queued_at else None,
            "ml.prepare_ms": round(work.prepare_ms, 3) or None,
            "ml.predict_ms": round(work.predict_ms, 3) or None,
            "ml.batch_size": work.batch_size or None,
        }
    )
    if failed:
        span.fail(outcome)
    span.end()


def end_with(work: Work, outcome: Outcome, state: State | None) -> None:
    """Its outcome is written; `state` is what stands: another outcome may have been first."""
    stands = state or outcome.state
    code = outcome.code if stands is outcome.state and outcome.code else stands.value
    end_job(work, code, failed=stands is State.FAILED)


def begin_batch(units: Sequence[Unit], worker: str) -> Span:
    """These units are on the device from now on."""
    if not tracing.on():
        return NO_SPAN
    works = list(dict.fromkeys(unit.work for unit in units))
    sampled = [work.span for work in works if work.span.recorded]
    ref = works[0].ref
    told: dict[str, str | int | float | bool | None] = {
        "ml.model": ref.model,
        "ml.version": ref.version,
        "ml.worker": worker,
        "ml.batch_size": len(units),
        "messaging.batch.message_count": len(works),
    }
    parent = sampled[0] if sampled else works[0].span
    span = tracing.start(f"predict {ref}", parent=parent, attributes=told, links=sampled)
    for job in sampled:
        job.link(span)
    return span
