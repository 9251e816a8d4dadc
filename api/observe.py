"""What is told of each request, where that is asked for: a span, and a line of the access log. Neither knows the query,
the body, the caller's address or any header but the request's id."""

from __future__ import annotations

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import origin, trace_context, tracing
from shared.logs import Event, get_logger
from shared.trace_context import TraceContext
from shared.tracing import Span

logger = get_logger("api")

_PROBES = {"/health", "/livez", "/readyz", "/metrics"}  # asked every few seconds: no spans
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}


class Observe:
    """Outermost, so that it sees what the caller gets."""

    def __init__(self, app: ASGIApp, access_log: bool) -> None:
        self._app, self._access_log = app, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's contract
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        span = self._begin(scope, method)
        scope.setdefault("state", {})["span"] = span
        begun, status, size = time.perf_counter(), 0, 0

        async def watched(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "")
            _end(span, method, route, status)
            if self._access_log:
                ms = round((time.perf_counter() - begun) * 1000, 2)
                logger.info(Event.REQUEST, method=method, route=route, status=status, ms=ms, bytes=size)

    def _begin(self, scope: Scope, method: str) -> Span:
        parent = trace_of(scope)
        if scope["path"] in _PROBES:
            return Span(parent)
        attributes = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
        }
        return tracing.start(method, "SERVER", parent=parent, attributes=attributes)


def _end(span: Span, method: str, route: str, status: int) -> None:
    seen = origin.current()
    told: dict[str, Any] = {"http.response.status_code": status or None, "ml.request_id": seen.request_id or None}
    span.set(told | {"ml.job_id": seen.job_id or None, "http.route": route or None})
    if route:
        span.rename(f"{method} {route}")
    if status >= 500 or not status:
        span.fail(str(status) if status else "no_answer")
    span.end()


def trace_of(scope: Scope) -> TraceContext | None:
    """The caller's. Two parents are none; several states are one."""
    parents = [value for name, value in scope["headers"] if name == b"traceparent"]
    if len(parents) != 1:
        return None
    states = [value for name, value in scope["headers"] if name == b"tracestate"]
    return trace_context.parse(parents[0].decode("latin-1"), b",".join(states).decode("latin-1"))
