"""The inputs of a batch as they come, in slices: JSON lines from a stream, or the list of a JSON body. Each input stays
text here; what it says, api/batch_intake.py reads.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import orjson

from shared.depth import MAX_DEPTH
from shared.errors import BadRequest, Fault, InvalidInput
from shared.keys import MOST_LINES

SLICE_LINES, SLICE_BYTES = 500, 1_000_000

Raw = bytes | None
"""One input's JSON; None: it was longer than a line may be, and is gone."""

Slices = AsyncIterator[list[Raw]]
"""All inputs of a batch."""

_BLANK = b" \t\r"
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class LineSplitter:
    """Chunks to lines of at most `longest` bytes. Blank lines count, so that a line's number is its place in the file;
    those after the last input do not."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._parts: list[bytes] = []
        self._length = 0
        self._count = self._blank = 0

    def feed(self, chunk: bytes) -> list[Raw]:
        """The lines that end in it. Raises InvalidInput for more than a batch may have."""
        *ends, rest = chunk.split(b"\n")
        lines: list[Raw] = []
        for end in ends:
            self._keep(end)
            self._emit(lines)
        self._keep(rest)
        return lines

    def end(self) -> list[Raw]:
        """The last line, where no line feed ends it."""
        lines: list[Raw] = []
        if self._length:
            self._emit(lines)
        return lines

    def _keep(self, part: bytes) -> None:
        self._length += len(part)
        if self._length > self._longest:
            self._parts.clear()
        elif part:
            self._parts.append(part)

    def _emit(self, lines: list[Raw]) -> None:
        line = None if self._length > self._longest else b"".join(self._parts)
        self._parts.clear()
        self._length = 0
        if line is not None:
            if not self._count and not self._blank:
                line = line.removeprefix(_BOM)
            line = line.strip(_BLANK)
        if line == b"":
            self._blank += 1
            return
        self._count += self._blank + 1
        if self._count > MOST_LINES:
            raise too_many()
        lines += [b""] * self._blank
        lines.append(line)
        self._blank = 0


async def json_lines(chunks: AsyncIterator[bytes], longest: int) -> Slices:
    """Slices of a body of JSON lines; no more of it is in memory than a slice and a line. Raises as `LineSplitter`."""
    splitter = LineSplitter(longest)
    waiting: list[Raw] = []
    size = 0
    async for chunk in chunks:
        for line in splitter.feed(chunk):
            waiting.append(line)
            size += len(line or b"")
            if len(waiting) >= SLICE_LINES or size >= SLICE_BYTES:
                yield waiting
                waiting, size = [], 0
    waiting += splitter.end()
    if waiting:
        yield waiting


def too_many() -> InvalidInput:
    """The error for a batch with more lines than one may have."""
    return InvalidInput(faults=[Fault(pointer="/inputs", message=f"a batch takes up to {MOST_LINES} inputs")])


def read_list(body: bytes) -> tuple[dict[str, Any], list[Raw] | None]:
    """The fields of a JSON object, without `inputs`, and the texts of what is in that list (None: it is no list, and
    stands among the fields). For a thread of its own: it gives way to others between two inputs, as one call of a JSON
    parser would not. Raises BadRequest, InvalidInput for too many inputs."""
    # Every byte as one character: what begins and ends where is told by ASCII alone, and places in it are places in the
    # body. The texts themselves are read as UTF-8 afterwards.
    text = body.decode("latin-1")
    fields: dict[str, Any] = {}
    inputs: list[Raw] | None = None
    try:
        if text[_skip(text, 0) : _skip(text, 0) + 1] != "{":
            orjson.loads(body)
            raise InvalidInput(faults=[Fault(message="the body must be a JSON object")])
        end = 0
        for name, start in (members := _Members(text)):
            if orjson.loads(name) == "inputs" and text[start : start + 1] == "[":
                spans, end = _elements(text, start)
                inputs = [body[a:b] for a, b in _pairs(spans)]
                fields.pop("inputs", None)
            else:
                _, end = _DECODER.raw_decode(text, start)
                fields[orjson.loads(name)] = orjson.loads(body[start:end])
            members.at = end
        if _skip(text, members.at) != len(text):
            raise ValueError("something follows the object (JSON lines are sent as application/x-ndjson)")
    except RecursionError:
        raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    return fields, inputs


class _Members:
    """Names of an object, as text, and where their values begin. Who iterates sets `at` to where each ends. Raises
    ValueError."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.at = _skip(text, 0) + 1

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        text = self._text
        self.at = _skip(text, self.at)
        if text[self.at : self.at + 1] == "}":
            self.at += 1
            return
        while True:
            begin = _skip(text, self.at)
            name, end = _DECODER.raw_decode(text, begin)
            if not isinstance(name, str):
                raise ValueError(f"a name is expected at byte {begin}")
            yield text[begin:end].encode("latin-1"), _after(text, end, ":")
            self.at = _skip(text, self.at)
            if text[self.at : self.at + 1] == "}":
                self.at += 1
                return
            self.at = _after(text, self.at, ",")


def _elements(text: str, at: int) -> tuple[array[int], int]:
    """Where the elements of the list at `at` begin and end, one after the other, and where the list ends."""
    spans = array("Q")
    at = _skip(text, at + 1)
    if text[at : at + 1] == "]":
        return spans, at + 1
    while True:
        _, end = _DECODER.raw_decode(text, at)
        spans.extend((at, end))
        if len(spans) > 2 * MOST_LINES:
            raise too_many()
        at = _skip(text, end)
        if text[at : at + 1] == "]":
            return spans, at + 1
        at = _after(text, at, ",")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # noqa: S101 - it matches nothing too
    return found.end()


def _after(text: str, at: int, mark: str) -> int:
    """Where something begins after this mark."""
    at = _skip(text, at)
    if text[at : at + 1] != mark:
        raise ValueError(f"{mark!r} is expected at byte {at}")
    return _skip(text, at + 1)


def _pairs(spans: array[int]) -> Iterable[tuple[int, int]]:
    return zip(spans[::2], spans[1::2], strict=True)


async def in_slices(inputs: list[Raw]) -> Slices:
    """A list as a stream of JSON lines would give it. It is empty afterwards: what was given is held no more."""
    inputs.reverse()
    while inputs:
        part: list[Raw] = []
        size = 0
        while inputs and len(part) < SLICE_LINES and size < SLICE_BYTES:
            part.append(inputs.pop())
            size += len(part[-1] or b"")
        yield part
