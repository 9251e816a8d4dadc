"""Spans, through OpenTelemetry where it is installed (extra `otel`) and configured (its own OTEL_* variables). Else a
span is nothing but the caller's context, which is handed on all the same.

Names and attributes follow https://opentelemetry.io/docs/specs/semconv/ (HTTP, messaging); ours begin with `ml.`. No
span tells a payload, a key, or what an exception says.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from shared.errors import ConfigError
from shared.logs import Event, get_logger
from shared.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

logger = get_logger("tracing")

LAST_WORDS_S = 2.0  # for the spans that are not sent yet, when the process ends
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

Attributes = Mapping[str, str | int | float | bool | None]
Kind = Literal["INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]


class Span:
    """One that nobody records. `context`: what is handed on."""

    __slots__ = ("_context",)

    def __init__(self, context: TraceContext | None = None) -> None:
        self._context = context

    @property
    def context(self) -> TraceContext | None:
        """Of this span; the caller's where nobody traces."""
        return self._context

    @property
    def recorded(self) -> bool:
        """Whether it is traced and sampled."""
        return False

    def rename(self, name: str) -> None:
        """What it is about is known only now."""

    def set(self, attributes: Attributes) -> None:
        """None is left out."""

    def link(self, other: Span) -> None:
        """To another that has to do with this one, of whatever trace."""

    def fail(self, code: str) -> None:
        """It ended with this error code."""

    def active(self) -> AbstractContextManager[object]:
        """In this thread, what other libraries trace is a part of it."""
        return nullcontext()

    def end(self) -> None:
        """Now. Again: nothing."""


NO_SPAN = Span()


class _Recorded(Span):
    __slots__ = ("_ended", "otel")

    def __init__(self, otel: OtelSpan) -> None:
        super().__init__()
        self.otel = otel
        self._ended = False

    @property
    def context(self) -> TraceContext | None:
        if self._context is None:
            own = self.otel.get_span_context()
            parent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"
            self._context = TraceContext(parent, own.trace_state.to_header())
        return self._context

    @property
    def recorded(self) -> bool:
        return self.otel.is_recording()

    def rename(self, name: str) -> None:
        self.otel.update_name(name)

    def set(self, attributes: Attributes) -> None:
        self.otel.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def link(self, other: Span) -> None:
        if isinstance(other, _Recorded):
            self.otel.add_link(other.otel.get_span_context())

    def fail(self, code: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self.otel.set_attribute("error.type", code)
        self.otel.set_status(Status(StatusCode.ERROR))

    def active(self) -> AbstractContextManager[object]:
        from opentelemetry.trace import use_span

        return use_span(self.otel, record_exception=False, set_status_on_exception=False)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self.otel.end()


_current: ContextVar[Span] = ContextVar("span", default=NO_SPAN)
_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def on() -> bool:
    """Whether spans are recorded."""
    return _tracer is not None


def current() -> Span:
    """Of the request in hand, as `enter` was told."""
    return _current.get()


def enter(span: Span) -> None:
    """For the rest of this task."""
    _current.set(span)


def start(
    name: str,
    kind: Kind = "INTERNAL",
    *,
    parent: Span | TraceContext | None = None,
    attributes: Attributes | None = None,
    links: Sequence[Span] = (),
) -> Span:
    """A span that has begun. Without a parent it begins a trace."""
    if _tracer is None:
        return Span(parent.context if isinstance(parent, Span) else parent)
    from opentelemetry.trace import Link, SpanKind

    otel = _tracer.start_span(
        name,
        context=_otel_context(parent),
        kind=SpanKind[kind],
        attributes={name: value for name, value in (attributes or {}).items() if value is not None},
        links=[Link(one.otel.get_span_context()) for one in links if isinstance(one, _Recorded)],
    )
    return _Recorded(otel)


def _otel_context(parent: Span | TraceContext | None) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if isinstance(parent, _Recorded):
        return set_span_in_context(parent.otel, Context())
    context = parent.context if isinstance(parent, Span) else parent
    return TraceContextTextMapPropagator().extract(context.headers() if context else {}, Context())


def configure(service: str, instance: str) -> None:
    """Once a process, in its main, by the OTEL_* variables. Raises ConfigError for an exporter that is not there."""
    names = _wanted()
    if not names:
        return
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import set_tracer_provider
    except ImportError:
        logger.warning(Event.TRACING_OFF, why="an exporter is configured, but the extra `otel` is not installed")
        return
    told = {"service.instance.id": instance}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        told["service.name"] = service
    provider = TracerProvider(resource=Resource.create(told), shutdown_on_exit=False)
    for name in names:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    set_tracer_provider(provider)  # for what a handler's own libraries trace
    use(provider)


def use(provider: TracerProvider | None) -> None:
    """Record spans there, or nowhere."""
    global _provider, _tracer  # noqa: PLW0603 - one a process, as OpenTelemetry has it
    _provider = provider
    _tracer = provider.get_tracer("ml-service") if provider else None


def flush(timeout_s: float = LAST_WORDS_S) -> None:
    """The process ends: send what is not sent yet, if the collector takes it within the time."""
    provider = _provider
    if provider is None:
        return
    use(None)
    sending = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
    sending.start()
    sending.join(timeout_s)


def _wanted() -> list[str]:
    env = os.environ
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    endpoint = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    named = env.get("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "")
    return [name for name in (part.strip() for part in named.split(",")) if name not in ("", "none")]


def _exporter(name: str) -> SpanExporter:
    from importlib.metadata import entry_points

    if name == "otlp":
        env = os.environ
        protocol = env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        name = _PROTOCOLS.get(protocol or "http/protobuf", protocol or "")
    for found in entry_points(group="opentelemetry_traces_exporter", name=name):
        made: SpanExporter = found.load()()
        return made
    raise ConfigError(f"OTEL_TRACES_EXPORTER: no exporter {name!r} is installed")


def messaging(operation: str, kind: str, queue: str, job_id: str) -> dict[str, str]:
    """What a span of one message tells."""
    return {
        "messaging.system": "celery",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue,
        "messaging.message.id": job_id,
        "ml.job_id": job_id,
    }
