"""Bodies sent with `Content-Encoding: gzip` or `deflate`, as if they had been sent plain.

A body of some kilobytes can inflate to gigabytes: it is inflated as it is read, in steps of `_STEP` bytes, and no
further than the cap. Between two steps the event loop serves others. After the end of the body `receive` is the
server's own again, so a waiting handler sees a caller who goes.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.caps import Cap
from api.errors import problem
from shared.errors import BadRequest, TooLarge, UnsupportedMedia

_STEP = 262_144
_GZIP, _ZLIB, _RAW = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_KNOWN = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


class Inflate:
    """413 when more bytes come out than `most` tells; 400 for broken or truncated data; 415 for another encoding."""

    def __init__(self, app: ASGIApp, most: Cap) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's contract
        encoding = "identity"
        if scope["type"] == "http":
            encoding = Headers(scope=scope).get("content-encoding", "").strip().lower() or "identity"
        if encoding in _KNOWN:
            told = (b"content-encoding", b"content-length")
            scope = {**scope, "headers": [field for field in scope["headers"] if field[0] not in told]}
            receive = _Inflated(receive, _KNOWN[encoding], self._most(scope))
        elif encoding != "identity":
            text = f"Content-Encoding {encoding[:40]!r} is not read here; send gzip, deflate, or the body as it is"
            answer = problem(
                Request(scope), UnsupportedMedia.code, text, headers={"Accept-Encoding": "gzip, deflate, identity"}
            )
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _Inflated:
    """A `receive` whose messages are inflated."""

    def __init__(self, receive: Receive, encoding: str, most: int) -> None:
        self._receive, self._encoding, self._most = receive, encoding, most
        self._stream: Any = None  # zlib has no name for its type; None before the first byte
        self._rest = b""  # has come, and is not inflated yet
        self._full = False  # the last step gave all it may: the stream may hold more, without more input
        self._more = True  # the server has more
        self._given = 0
        self._done = False

    async def __call__(self) -> Message:
        """Raises TooLarge and BadRequest."""
        while not self._done:
            if self._more and not self._rest and not self._full:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._rest, self._more = message.get("body", b""), message.get("more_body", False)
            piece = self._step()
            if not (self._more or self._rest or self._full):
                if self._stream is not None and not self._stream.eof:
                    raise BadRequest(f"the {self._encoding} body ends too early")
                self._done = True
            if piece or self._done:
                await asyncio.sleep(0)
                return {"type": "http.request", "body": piece, "more_body": not self._done}
        return await self._receive()

    def _step(self) -> bytes:
        if self._stream is None:
            if not self._rest:
                return b""
            self._stream = zlib.decompressobj(self._window(self._rest[0]))
        if self._stream.eof:
            if self._rest:
                raise BadRequest(f"something follows the end of the {self._encoding} body")
            self._full = False
            return b""
        try:
            piece: bytes = self._stream.decompress(self._rest, _STEP)
        except zlib.error:
            raise BadRequest(f"the body is no {self._encoding} data") from None
        self._rest = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        self._full = len(piece) == _STEP
        self._given += len(piece)
        if self._given > self._most:
            raise TooLarge(f"bodies of more than {self._most} bytes, inflated, are not accepted")
        return piece

    def _window(self, first: int) -> int:
        """`deflate` is the zlib format; some clients send the bare stream, as some servers did."""
        if self._encoding == "gzip":
            return _GZIP
        return _ZLIB if first & 0x0F == 8 else _RAW
