"""`python -m benchmarks.observe`: what traces and log lines cost where a job passes, in the thread that it passes.

The product's own functions, called as a job's path calls them; spans go to an exporter that drops them, lines to
/dev/null. Best of several rounds, in microseconds.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
from collections.abc import Callable, Sequence
from timeit import Timer
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from api.jobs import submit_span
from shared import origin, tracing
from shared.catalog import Ref
from shared.log_lines import JsonFormatter
from shared.log_queue import Inlet, Outlet
from shared.logs import Event, get_logger
from shared.origin import Carried, Origin
from shared.trace_context import parse
from shared.types import Outcome, State
from worker import spans
from worker.batcher import Budget
from worker.handler import Prepared
from worker.work import Unit, Work

JOB = "c5f3edde-7d1b-4787-bb57-854dba8915dd"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REF, DONE, BATCH, ROUNDS = Ref("echo", "1"), Outcome(State.SUCCEEDED), 16, 7


class Nowhere(SpanExporter):
    """Takes everything."""

    def export(self, spans: Sequence[Any]) -> SpanExportResult:  # noqa: D102 - OpenTelemetry's contract
        return SpanExportResult.SUCCESS


def submit() -> None:
    """What the API does for a job: the caller's context, the request's span, the submit's, what travels."""
    origin.begin(Origin("b1a9c6a0"))
    context = parse(PARENT)
    server = tracing.start("POST", "SERVER", parent=context) if tracing.on() else tracing.Span(context)
    tracing.enter(server)
    span = submit_span(JOB, REF)
    carried = Carried(origin.current().request_id, span.context)
    carried.headers()
    carried.fields()
    span.end()
    server.end()


def process() -> None:
    """What a worker does for a batch."""
    works = []
    for _ in range(BATCH):
        carried = Carried.of({"ml_request_id": "b1a9c6a0", "traceparent": PARENT})
        work = Work(JOB, JOB, REF, 3, None, request_id=carried.request_id)
        work.span = spans.begin_job(work, carried.trace)
        works.append(work)
    spans.begin_batch([Unit(work, 0, 0, Prepared(None), Budget(BATCH, BATCH, 0, False)) for work in works], "w").end()
    for work in works:
        spans.end_with(work, DONE, State.SUCCEEDED)


def bare() -> None:
    """The same, but for what is measured."""
    works = [Work(JOB, JOB, REF, 3, None) for _ in range(BATCH)]
    [Unit(work, 0, 0, Prepared(None), Budget(BATCH, BATCH, 0, False)) for work in works]


def best_us(call: Callable[[], None], calls: int) -> float:
    """Of one call."""
    return min(Timer(call).repeat(ROUNDS, calls)) / calls * 1e6


def lines_us() -> tuple[float, float]:
    """Of a line: in the thread that says it, through the queue; and where it would be written at once."""
    said = get_logger("benchmark")
    logger = logging.getLogger("ml.benchmark")
    logger.propagate = False
    with open(os.devnull, "w") as nowhere:
        out = logging.StreamHandler(nowhere)
        out.setFormatter(JsonFormatter())
        inlet = Inlet(queue.SimpleQueue(), most=10**9)

        def line() -> None:
            said.warning(Event.REQUEST, method="POST", route="/v1/jobs", status=202, ms=1.25, bytes=640)

        logger.handlers[:] = [inlet]
        queued = best_us(line, 2000)
        outlet = Outlet(inlet, out, logging.makeLogRecord({}))
        outlet.start()
        outlet.stop()
        logger.handlers[:] = [out]
        return queued, best_us(line, 2000)


def main() -> int:
    """Prints a row for each."""
    print(f"Python {sys.version.split()[0]}; microseconds a job, a batch of {BATCH} in the worker")
    for name, provider in (("traces off", None), ("traces on", TracerProvider(shutdown_on_exit=False))):
        if provider:
            provider.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=2**20))
        tracing.use(provider)
        base = best_us(bare, 200)
        print(f"{name:12} API {best_us(submit, 2000):6.1f}   worker {(best_us(process, 200) - base) / BATCH:6.1f}")
    tracing.flush(30)
    queued, written = lines_us()
    print(f"a log line   through the queue {queued:.1f}, formatted and written at once {written:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
