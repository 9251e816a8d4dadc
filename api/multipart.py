"""A multipart body with one file, piece by piece: nothing is held but what has just come. (Starlette's own reader
writes all of it to a temporary file first.)"""

from __future__ import annotations

from collections.abc import AsyncIterator

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from shared.errors import BadRequest

_MOST_TEXT = 65_536  # of the fields that are no file
_DEFAULT = "application/octet-stream"


async def one_file(pieces: AsyncIterator[bytes], content_type: str) -> tuple[str, AsyncIterator[bytes]]:
    """The file's content type and its bytes. Text fields are passed over. Raises BadRequest: not multipart, no file, a
    second one, or a body that ends too early; also while it is read."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadRequest("the multipart body has no boundary")
    reader = _Reader(boundary)
    async for piece in pieces:
        reader.feed(piece)
        if reader.kind is not None:
            break
    if reader.kind is None:
        raise BadRequest("the multipart body has no file")
    return reader.kind, _rest(reader, pieces)


async def _rest(reader: _Reader, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if data := reader.take():
        yield data
    async for piece in pieces:
        reader.feed(piece)
        if data := reader.take():
            yield data
    if not reader.ended:
        raise BadRequest("the multipart body ends too early")


class _Reader:
    """`kind`: the file's content type, once its part has begun; `ended`: the last boundary was there."""

    def __init__(self, boundary: bytes) -> None:
        self.kind: str | None = None
        self.ended = False
        self._in_file, self._text = False, 0
        self._name, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._data = bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": self._on_name,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._on_part,
                    "on_part_data": self._on_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise BadRequest(f"the multipart body cannot be read: {error}") from None

    def feed(self, piece: bytes) -> None:
        """Raises BadRequest."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise BadRequest(f"the multipart body cannot be read: {error}") from None

    def take(self) -> bytes:
        """What has come of the file since."""
        data = bytes(self._data)
        self._data.clear()
        return data

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _on_part(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        self._in_file = b"filename" in options
        if self._in_file:
            if self.kind is not None:
                raise BadRequest("the multipart body has more than one file; upload each by a call of its own")
            self.kind = self._headers.get(b"content-type", _DEFAULT.encode()).decode("latin-1")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._data += data[start:end]
        else:
            self._text += end - start
            if self._text > _MOST_TEXT:
                raise BadRequest("the multipart body has too much text beside its file")

    def _on_end(self) -> None:
        self.ended = True
