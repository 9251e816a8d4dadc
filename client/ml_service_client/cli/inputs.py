"""From what stands on the command line, or in a line of a file, to a model's input."""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_service_client.cli.ending import Failure, usage

_MEDIA = ("image", "audio", "video")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model takes, as far as one plain value is concerned: the field that a text goes into, and the one that a
    file's bytes go into (base64). None: there is no such field. `open`: anything goes."""

    text: str | None = None
    media: str | None = None
    open: bool = False

    @classmethod
    def of(cls, schema: dict[str, Any] | None) -> Shape:
        """By its JSON schema: a field that is all an input needs."""
        if not schema:
            return cls(open=True)
        text = media = None
        for name, field in _lone_fields(schema):
            if field.get("contentEncoding") == "base64":
                media = media or name
            elif any(kind.get("type") == "string" for kind in field.get("anyOf", [field])):
                text = text or name
        return cls(text, media)


def _lone_fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in schema.get("anyOf") or schema.get("oneOf") or [schema]:
        found = _resolved(part, schema)
        required = found.get("required") or []
        if found.get("type") == "object" and len(required) == 1:
            yield required[0], _resolved(found.get("properties", {}).get(required[0], {}), schema)


def _resolved(part: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    name = str(part.get("$ref", "")).removeprefix("#/$defs/")
    found: dict[str, Any] = root.get("$defs", {}).get(name, part)
    return found


def as_json(text: str) -> Any:
    """A JSON object or list; None: it is another text. Raises Failure for what begins like one and is none: that is a
    mistake, rather than a text."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failure(f"the input begins like JSON, and is none: {error}") from None


def read(given: str) -> str | bytes:
    """`-`: stdin; `@path`, or the path of an image, audio or video file: that file; else the text itself. Text, or
    bytes where it is none."""
    if given == "-":
        return _decoded(sys.stdin.buffer.read())
    if given.startswith("@"):
        return _decoded(_file(Path(given[1:])))
    kind = mimetypes.guess_type(given)[0] or ""
    if kind.partition("/")[0] in _MEDIA and "\n" not in given and Path(given).is_file():
        return _file(Path(given))
    return given


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise usage(f"INPUT: {path}: {error.strerror}") from None


def _decoded(content: bytes) -> str | bytes:
    try:
        return content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        return content


def from_bytes(content: bytes, shape: Shape) -> Any:
    """A file that is no text. Raises Failure where the model takes none."""
    if shape.media is None and not shape.open:
        raise Failure("this model takes no file: see `ml-service models MODEL`")
    encoded = base64.b64encode(content).decode()
    return {shape.media: encoded} if shape.media else encoded


def from_text(text: str, shape: Shape) -> Any:
    """A text that is no JSON object or list. Raises Failure where the model takes none."""
    if shape.text is not None:
        return {shape.text: text}
    try:
        return json.loads(text)
    except ValueError:
        if shape.open:
            return text
    kind = mimetypes.guess_type(text)[0] or ""
    if kind.partition("/")[0] in _MEDIA and "\n" not in text:
        raise Failure(f"there is no file {text}")
    raise Failure(
        "the input is no JSON, and this model takes no plain text; `ml-service models NAME` tells what it does"
    )
