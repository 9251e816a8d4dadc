"""Pure ASGI middleware: a request id on every answer, and the headers that were left in the request's state; a cap on
every body; no odd path; no error without an answer.

Nothing here may wrap `receive` so that a disconnect is hidden: handlers that wait must see it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.caps import Cap
from api.errors import problem
from api.observe import trace_of
from shared import origin, tracing
from shared.errors import BadRequest, TooLarge
from shared.logs import Event, get_logger

logger = get_logger("api")


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class RequestId:
    """`X-Request-ID` of the caller, or one of ours, on the answer, and with the caller's trace in all that is done for
    the request; `Connection: close` while the process drains. Only what observes is further out: an error that nobody
    has answered becomes a 500 problem here."""

    def __init__(self, app: ASGIApp, draining: Callable[[], bool]) -> None:
        self._app, self._draining = app, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's contract
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = origin.as_request_id(given) or secrets.token_hex(16)
        origin.begin(origin.Origin(request_id))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        tracing.enter(state.get("span") or tracing.Span(trace_of(scope)))
        started = False

        async def tagged(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=message["headers"])
                headers["x-request-id"] = request_id
                headers.update(scope["state"].get("headers", {}))
                if self._draining():
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        except Exception as error:
            logger.error(Event.REQUEST_FAILED, exc_info=error, route=getattr(scope.get("route"), "path", ""))
            if started:
                raise
            text = f"something went wrong here; its request id is {request_id}"
            await problem(Request(scope), "internal_error", text)(scope, receive, tagged)


def headers_of(request: Request) -> dict[str, str]:
    """Of the request's answer, whatever it will be: what is put there, `RequestId` adds."""
    headers: dict[str, str] = request.scope["state"].setdefault("headers", {})
    return headers


class PlainPath:
    """400 for a path with control characters. Routes are matched by regular expressions, whose `$` also stands before
    a last line feed: `DELETE /v1/models/bert%0A` would mean `bert`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's contract
        if scope["type"] == "http" and _CONTROL.search(scope["path"]):
            answer = problem(Request(scope), BadRequest.code, "the path has control characters")
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


class BodyCap:
    """413 for a body over the bytes that `most` tells: at once where the length is told, else when the limit is passed.
    What still comes is api/protocol.py's."""

    def __init__(self, app: ASGIApp, most: Cap) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's contract
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        most = self._most(scope)
        text = f"bodies of more than {most} bytes are not accepted"
        if length.isdigit():
            if int(length) > most:
                answer = problem(Request(scope), TooLarge.code, text)
                await answer(scope, receive, send)
            else:  # HTTP's own framing sees to it that no more comes
                await self._app(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise TooLarge(text)
            return message

        await self._app(scope, counted, send)
