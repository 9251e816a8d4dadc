"""Large and binary inputs travel beside the message, not in it.

`detach` takes them out of an input (bytes always, the whole input when its JSON is large) and gives what to store;
`attach` puts them back on the worker. They lie in Redis, as keys of the job with its TTL, or in the payload store
(shared/payload_store.py), where files lie that a caller has uploaded before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import orjson

from shared.errors import InvalidInput

WHOLE, BYTES = "", "#"  # in the place of a pointer: the part is the input's JSON; the input is bytes, and this them


class Elsewhere(bytes):
    """Stands for bytes of an input that are not here: nobody may take it for text, so it is none in UTF-8."""

    size: int = 0
    """Of what it stands for."""

    def __new__(cls) -> Self:  # noqa: D102 - takes nothing
        return super().__new__(cls, b"\xff")


def size_of(part: bytes) -> int:
    """Of a part, wherever it is."""
    return part.size if isinstance(part, Elsewhere) else len(part)


@dataclass(slots=True)
class Detached:
    """`input` without its large parts, their JSON pointers (or WHOLE, or BYTES), and the parts in the same order."""

    input: Any
    pointers: list[str]
    parts: list[bytes]
    size: int


def detach(value: Any, inline_bytes: int) -> Detached:
    """`value` is JSON data that may hold bytes. Raises TypeError for anything else."""
    pointers: list[str] = []
    parts: list[bytes] = []
    rest = _take_bytes(value, "", pointers, parts)
    if isinstance(value, bytes):
        pointers = [BYTES]
    text = orjson.dumps(rest)
    size = len(text) + sum(map(size_of, parts))
    if len(text) > inline_bytes:
        # The input itself is first to be put back: the bytes' pointers lead into it.
        return Detached(None, [WHOLE, *pointers], [text, *parts], size)
    return Detached(rest, pointers, parts, size)


def attach(value: Any, pointers: list[str], parts: list[bytes]) -> Any:
    """The input as it was before `detach`. Raises InvalidInput for pointers that lead nowhere in it."""
    try:
        for pointer, part in zip(pointers, parts, strict=True):
            if pointer == WHOLE:
                value = orjson.loads(part)
            elif pointer == BYTES:
                value = part
            else:
                _put(value, pointer, part)
    except (ValueError, TypeError, LookupError):
        raise InvalidInput("the parts of the input that lie in the payload store do not fit it") from None
    return value


def _put(value: Any, pointer: str, part: bytes) -> None:
    *path, last = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    for step in path:
        value = value[int(step)] if isinstance(value, list) else value[step]
    value[int(last) if isinstance(value, list) else last] = part


def _take_bytes(value: Any, pointer: str, pointers: list[str], parts: list[bytes]) -> Any:
    if isinstance(value, bytes):
        pointers.append(pointer)
        parts.append(value)
        return None
    if isinstance(value, dict):
        return {
            key: _take_bytes(item, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", pointers, parts)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_take_bytes(item, f"{pointer}/{index}", pointers, parts) for index, item in enumerate(value)]
    return value
