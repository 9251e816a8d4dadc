"""Spans: who is whose child, what is linked with what, and nothing at all where nobody asked for traces."""

from __future__ import annotations

import contextvars
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from shared import tracing
from shared.catalog import Ref
from shared.errors import ConfigError
from shared.trace_context import TraceContext
from shared.tracing import NO_SPAN, Span
from shared.types import Outcome, State
from worker import spans
from worker.batcher import Budget
from worker.handler import Prepared
from worker.work import Unit, Work

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = TraceContext(f"00-{TRACE}-{SPAN}-01", "vendor=1")
UNSAMPLED = TraceContext(f"00-{TRACE}-{SPAN}-00")
REF = Ref("bert", "1")


@pytest.fixture
def recorded() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.use(None)
    provider.shutdown()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    found = {span.name: span for span in exporter.get_finished_spans()}
    assert len(found) == len(exporter.get_finished_spans())
    return found


def links(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def work(job_id: str, parent: TraceContext | None = None) -> Work:
    made = Work(job_id, job_id, REF, 3, None, request_id=f"request-{job_id}")
    made.span = spans.begin_job(made, parent)
    return made


def unit(of: Work) -> Unit:
    return Unit(of, 0, 0, Prepared(None), Budget(8, 8, 0, False))


def test_a_child_of_the_caller(recorded: InMemorySpanExporter) -> None:
    server = tracing.start("GET", "SERVER", parent=CALLER, attributes={"a": 1, "b": None})
    assert server.recorded
    assert server.context
    assert server.context.trace_id == TRACE
    assert server.context.state == "vendor=1", "what others wrote is handed on"
    child = tracing.start("submit", "PRODUCER", parent=server)
    child.fail("queue_full")
    child.end()
    server.rename("GET /x")
    server.set({"c": 2.5, "d": None})
    server.end()
    server.end()
    found = by_name(recorded)
    assert found.keys() == {"GET /x", "submit"}
    above, below = found["GET /x"], found["submit"]
    assert above.parent
    assert (f"{above.parent.trace_id:032x}", f"{above.parent.span_id:016x}") == (TRACE, SPAN)
    assert above.parent.is_remote
    assert below.parent == above.context
    assert (above.kind, below.kind) == (SpanKind.SERVER, SpanKind.PRODUCER)
    assert dict(above.attributes or {}) == {"a": 1, "c": 2.5}
    assert below.status.status_code is StatusCode.ERROR
    assert below.status.description is None, "no words of an error"
    assert dict(below.attributes or {}) == {"error.type": "queue_full"}


def test_without_a_parent_a_trace_begins(recorded: InMemorySpanExporter) -> None:
    first, second = tracing.start("one"), tracing.start("two")
    assert first.context
    assert second.context
    assert first.context.trace_id != second.context.trace_id


def test_a_batch_and_its_jobs_are_linked_both_ways(recorded: InMemorySpanExporter) -> None:
    other = TraceContext(f"00-{'a' * 32}-{'b' * 16}-01")
    jobs = [work("j1", UNSAMPLED), work("j2", CALLER), work("j3", other), work("j4")]
    units = [unit(job) for job in (jobs[0], jobs[1], jobs[1], jobs[2], jobs[3])]
    batch = spans.begin_batch(units, "w1")
    with batch.active():
        assert get_current_span().get_span_context() == batch.otel.get_span_context()  # type: ignore[attr-defined]
    batch.end()
    for job in jobs:
        spans.end_job(job, "succeeded")
    finished = recorded.get_finished_spans()
    (told,) = (span for span in finished if span.name == "predict bert@1")
    of_jobs = [span for span in finished if span is not told]
    assert len(of_jobs) == 3, "the caller of j1 does not sample, and that decides"
    assert links(told) == {span.context.span_id for span in of_jobs if span.context}
    assert all(told.context and links(span) == {told.context.span_id} for span in of_jobs)
    first = next(span for span in of_jobs if (span.attributes or {})["ml.job_id"] == "j2")
    assert told.parent == first.context, "a child of the first that is sampled"
    assert dict(told.attributes or {}) == {
        "ml.model": "bert",
        "ml.version": "1",
        "ml.worker": "w1",
        "ml.batch_size": 5,
        "messaging.batch.message_count": 4,
    }


def test_what_a_job_tells(recorded: InMemorySpanExporter) -> None:
    job = work("j", CALLER)
    job.attempt, job.queued_at, job.started_at = 2, 1000, 1250
    job.prepare_ms, job.predict_ms, job.batch_size = 0.5, 7.25, 8
    spans.end_with(job, Outcome(State.FAILED, code="predict_error", message="ValueError: the input"), State.FAILED)
    (told,) = recorded.get_finished_spans()
    assert told.name == "process ml.bert.1"
    assert told.kind is SpanKind.CONSUMER
    assert told.status.status_code is StatusCode.ERROR
    assert dict(told.attributes or {}) == {
        "messaging.system": "celery",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "ml.bert.1",
        "messaging.message.id": "j",
        "ml.job_id": "j",
        "ml.request_id": "request-j",
        "ml.model": "bert",
        "ml.version": "1",
        "ml.outcome": "predict_error",
        "ml.attempt": 2,
        "ml.queue_ms": 250,
        "ml.prepare_ms": 0.5,
        "ml.predict_ms": 7.25,
        "ml.batch_size": 8,
        "error.type": "predict_error",
    }
    assert "the input" not in told.to_json()


def test_the_state_that_stands_is_told(recorded: InMemorySpanExporter) -> None:
    """It was canceled while it ran: what came of it is not its outcome."""
    spans.end_with(work("j"), Outcome(State.FAILED, code="predict_error"), State.CANCELED)
    (told,) = recorded.get_finished_spans()
    assert (told.attributes or {})["ml.outcome"] == "canceled"
    assert told.status.status_code is StatusCode.UNSET


def test_nobody_traces() -> None:
    """The caller's context is handed on through everything."""
    assert not tracing.on()
    server = tracing.start("GET", "SERVER", parent=CALLER)
    assert tracing.start("submit", parent=server).context is CALLER
    assert tracing.start("alone").context is None
    assert not server.recorded
    for span in (server, NO_SPAN):
        span.rename("x")
        span.set({"a": 1})
        span.link(server)
        span.fail("x")
        with span.active():
            assert not get_current_span().is_recording()
        span.end()
    job = work("j", CALLER)
    assert job.span is NO_SPAN
    assert spans.begin_batch([unit(job)], "w") is NO_SPAN
    spans.end_job(job, "succeeded")


def test_the_caller_decides_what_is_sampled() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    try:
        for parent in (None, UNSAMPLED):
            span = tracing.start("no", parent=parent)
            assert not span.recorded
            assert span.context
            assert int(span.context.parent[-2:], 16) & 1 == 0, "and those behind us do not sample either"
            span.end()
        tracing.start("yes", parent=CALLER).end()
    finally:
        tracing.use(None)
    assert [span.name for span in exporter.get_finished_spans()] == ["yes"]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": " , none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "True", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"},
    ],
    ids=str,
)
def test_inert_without_an_exporter(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tracing.configure("s", "i")
    assert not tracing.on()


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_TRACES_EXPORTER": "no-such"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/xml"},
    ],
)
def test_an_exporter_that_is_not_there(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"no exporter '.+' is installed"):
        tracing.configure("s", "i")
    assert not tracing.on()


CONFIGURED = """
import sys
if {without}:
    sys.modules["opentelemetry.sdk"] = None
from shared import tracing
from shared.logs import configure_logs
configure_logs("INFO", "json")
tracing.configure("ml-service-api", "host-1")
print(tracing.on())
span = tracing.start("one")
span.end()
tracing.flush()
print(tracing.on(), "opentelemetry.sdk.trace" in sys.modules)  # (redis-py imports its metrics wherever it can)
"""


def configured(repository: Path, *, without: bool = False, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CONFIGURED.format(without=without)],
        cwd=repository,
        env={"PATH": "", **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def test_the_extra_is_not_installed(repository: Path) -> None:
    """Configured for a fleet, on a machine without it: the service runs, and says so."""
    run = configured(repository, without=True, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert run.stdout.split()[:2] == ["False", "False"]
    assert '"event":"tracing_off"' in run.stderr


def test_unasked_for_nothing_is_imported(repository: Path) -> None:
    run = configured(repository)
    assert run.stdout.split() == ["False", "False", "False"]
    assert run.stderr == ""


def test_any_exporter_by_its_name(repository: Path) -> None:
    """`console` is the SDK's own; the resource tells who we are."""
    told = configured(repository, OTEL_TRACES_EXPORTER="console", OTEL_RESOURCE_ATTRIBUTES="deployment=blue").stdout
    for part in (
        '"name": "one"',
        '"service.name": "ml-service-api"',
        '"service.instance.id": "host-1"',
        '"deployment": "blue"',
    ):
        assert part in told
    told = configured(repository, OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="mine").stdout
    assert '"service.name": "mine"' in told


def test_a_collector_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing."""
    logging.getLogger("opentelemetry").setLevel("CRITICAL")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        made: list[Any] = []
        monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", made.append)  # it can be set once a process
        tracing.configure("s", "i")
        assert len(made) == 1
        tracing.start("one").end()
        begun = time.monotonic()
        tracing.flush(0.2)
        assert time.monotonic() - begun < 5, "the exporter's own limit is 10 s"
        assert not tracing.on()
        tracing.flush()


def test_flush_sends_what_is_there() -> None:
    sent: list[str] = []

    class Exporter(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            sent.extend(span.name for span in spans)
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Exporter(), schedule_delay_millis=600_000))
    tracing.use(provider)
    for number in range(3):
        tracing.start(f"s{number}").end()
    assert sent == []
    tracing.flush(30)
    assert sent == ["s0", "s1", "s2"]


def test_the_span_of_a_request_is_the_tasks_own() -> None:
    span = Span(CALLER)
    inside = contextvars.copy_context()
    inside.run(tracing.enter, span)
    assert inside.run(tracing.current) is span
    assert tracing.current() is NO_SPAN
