"""An OTLP/HTTP collector on loopback that keeps what it is sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class Told:
    """A span as it came over the wire; ids in hexadecimal."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: set[tuple[str, str]]
    attributes: dict[str, Any]
    failed: bool
    service: str
    instance: str


@dataclass
class Collector:
    """`endpoint` is what OTEL_EXPORTER_OTLP_ENDPOINT takes."""

    endpoint: str
    spans: list[Told] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """For a process that is to send its spans here, soon."""
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        return told | {"NO_PROXY": "127.0.0.1"}

    def of_trace(self, trace_id: str) -> list[Told]:
        """In the order of their ends."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def of_job(self, job_id: str, kind: str) -> list[Told]:
        """Those that are about it alone."""
        return [span for span in self.spans if span.kind == kind and span.attributes.get("ml.job_id") == job_id]

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep what has come."""
        for resource in request.resource_spans:
            who = _attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_told(span, who) for span in scope.spans]


def _told(span: Sent, who: dict[str, Any]) -> Told:
    return Told(
        name=span.name,
        kind=Sent.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links={(link.trace_id.hex(), link.span_id.hex()) for link in span.links},
        attributes=_attributes(span.attributes),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        service=who["service.name"],
        instance=who["service.instance.id"],
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A running one."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
