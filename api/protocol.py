"""uvicorn's HTTP protocol with limits: nobody holds a connection by being slow, and no head is read without an end.

uvicorn itself limits neither the time nor the size of a request's head, nor the time of its body. Here:

- the head must have come ML_HEADER_TIMEOUT_S after its first byte; the body within ML_BODY_TIMEOUT_S of the head, and
  one second more for each `_BYTES_A_SECOND` that have come: a slow line is served, a drip is not (408);
- a head is refused over `MAX_TARGET` bytes of target (414), `MAX_FIELDS` fields or `MAX_HEAD` bytes (431);
- who does not read an answer for ML_BODY_TIMEOUT_S is cut off;
- an answer given before the body has come (413) is left to be read: the rest of the body is thrown away for
  `_LINGER_S`. To close at once would reset the connection, and most clients would see that instead of the answer.

A connection that is idle, and a caller who waits for an answer, are not touched.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.errors import PROBLEM_JSON, STATUS, document
from shared.errors import BadRequest, HeadersTooLarge, RequestTimeout, ServiceError, UriTooLong
from shared.settings import Settings

MAX_TARGET = 8_192  # bytes of path and query; what nginx and most others take
MAX_FIELDS = 100
MAX_HEAD = 32_768  # bytes of the whole head: cookies and traces of a mesh fit many times
_BYTES_A_SECOND = 10_000
_LINGER_S = 5.0
_COPIED = 65_536  # bytes of a body that are copied behind their head; more is a packet of its own anyway


class _Joined:
    """Where a request's cycle writes: an answer's head goes with the first of its body, in one packet and one system
    call. uvicorn writes them one after the other; a client then wakes twice, too. A head whose body comes later (a
    stream) goes at the end of the loop's turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._begun = False
        self._head = b""

    def write(self, data: bytes) -> None:
        """The first is the head (or a 100 before it)."""
        if not self._begun:
            self._begun, self._head = True, data
            self._loop.call_soon(self._flush)
        elif self._head and len(data) < _COPIED:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._flush()
            self._transport.write(data)

    def is_closing(self) -> bool:
        """The transport's."""
        return self._transport.is_closing()

    def close(self) -> None:
        """What was written goes out first."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `guarded` makes the class that is handed to uvicorn."""

    header_timeout_s: float
    body_timeout_s: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._part = ""  # of a request that has not come whole: head or body
        self._due = 0.0  # by the loop's clock: when the rest of it must be here
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._head = 0
        self._refusal: ServiceError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """A connection without a first byte is as idle as one between two requests."""
        super().connection_made(transport)
        self._keep()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing of ours is left in the loop."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()
        self._timer = self._unread = None

    def data_received(self, data: bytes) -> None:
        """What comes after a refusal is thrown away."""
        if self._refusal is not None:
            return
        super().data_received(data)
        if self.transport.is_closing() or self._refusal is not None:
            return
        if self._part == "head":
            self._head += len(data)  # a field that never ends is in none of the callbacks
            if self._head > MAX_HEAD:
                return self._refuse(HeadersTooLarge())
        if self._part and self._timer is None:
            self._timer = self.loop.call_at(self._due, self._look)
        elif not self._part and not self._answering():
            self._keep()  # it was an empty line, which begins no request

    # Of the parser. What they raise, it wraps, and uvicorn calls send_400_response.

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._part, self._head = "head", 0
        self._due = self.loop.time() + self.header_timeout_s

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        super().on_url(url)
        if len(self.url) > MAX_TARGET:
            self._raise(UriTooLong())

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field, or a trailer of a chunked body."""
        self._head += len(name) + len(value)
        if len(self.headers) >= MAX_FIELDS or self._head > MAX_HEAD:
            self._raise(HeadersTooLarge())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is here."""
        super().on_headers_complete()  # raises for a target that is none
        self.cycle.transport = _Joined(self.transport, self.loop)  # type: ignore[assignment]  # a cycle only writes and closes
        self._part, self._head = "body", 0
        self._due = self.loop.time() + self.body_timeout_s

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self.cycle.response_complete:
            self._due += len(body) / _BYTES_A_SECOND
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here."""
        self._part = ""
        super().on_message_complete()

    # Of the answer.

    def on_response_complete(self) -> None:
        """The answer is written; the body may still come."""
        super().on_response_complete()
        if self._part == "body" and self.cycle.response_complete and not self.transport.is_closing():
            self._due = self.loop.time() + _LINGER_S
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(self._due, self._look)

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls where the parser gives up."""
        self._refuse(self._refusal or BadRequest("this is no HTTP/1.1 request"))

    def _unsupported_upgrade_warning(self) -> None:
        """Such a request is answered as if it had not asked; a caller must not fill the log."""

    def _raise(self, error: ServiceError) -> None:
        self._refusal = error
        raise error

    def _look(self) -> None:
        """Has the rest of the request come in time?"""
        self._timer = None
        if not self._part or self.transport.is_closing():
            return
        # Not late are a head behind a request that we still answer, and a body that we do not read.
        if self.flow.read_paused or (self._part == "head" and self._answering()):
            self._due = self.loop.time() + self.header_timeout_s
        if self.loop.time() < self._due:
            self._timer = self.loop.call_at(self._due, self._look)
        elif self._part == "head" or not self.cycle.response_started:
            self._refuse(RequestTimeout())
        else:
            self.transport.close()

    def _refuse(self, error: ServiceError) -> None:
        """Answer, and close when the client has, or soon."""
        self._refusal = error
        if self.pipeline or (self._part != "body" and self._answering()):
            self.transport.close()  # an earlier request is not answered yet, and this answer would be taken for its own
            return
        if self._part == "body":
            self.cycle.disconnected = True  # who reads the body is told that it ends here
            self.cycle.message_event.set()
        self._part = ""
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.transport.write(_answer(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(_LINGER_S, self.transport.close)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _keep(self) -> None:
        """Idle: closed after uvicorn's keep-alive time, unless something comes."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _watch_reader(self, before: int | None = None) -> None:
        """Called again and again until it reads; cut off when nothing has gone out in between."""
        waiting = self.transport.get_write_buffer_size()
        if before is not None and waiting >= before:
            self.transport.abort()
        else:
            self._unread = self.loop.call_later(self.body_timeout_s, self._watch_reader, waiting)


def guarded(settings: Settings) -> type[GuardedProtocol]:
    """For `uvicorn.Config(http=...)`."""
    limits = {"header_timeout_s": settings.header_timeout_s, "body_timeout_s": settings.body_timeout_s}
    return type("Protocol", (GuardedProtocol,), limits)


def _answer(error: ServiceError) -> bytes:
    status = STATUS[error.code]
    body = orjson.dumps(document(error.code, error.message, status=status))
    fields = {
        "content-type": PROBLEM_JSON,
        "content-length": str(len(body)),
        "x-request-id": uuid.uuid4().hex,
        "connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return STATUS_LINE[status] + head.encode() + b"\r\n" + body
