"""Strategies: valid things with something wrong in them. Blind bytes seldom come further than the first check."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

_TEXTS = [
    "",
    "\0",
    " ",
    "a\nb",
    "../../etc/passwd",
    "http://127.0.0.1:1/",
    "\u202ea\u0301\U0001f4a3",
    "-1",
    "1e999",
    "NaN",
    "0x10",
    "9" * 5000,
    "a" * 3000,
    "~0~1/",
    "ml",
]
_NUMBERS = [0, -1, 1, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, 0.5, -0.0, 1e308, 5e-324]


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


odd_values = st.one_of(
    st.sampled_from([None, True, False, *_NUMBERS, *_TEXTS]),
    st.sampled_from(["[]", "{}", "[null]", '{"": null}']).map(json.loads),  # each time a new one, which may be changed
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.builds(nested, st.sampled_from([1, 100, 198, 199, 200, 201, 253, 254, 255, 600])),
)
"""JSON values that nobody expects."""

json_values = st.recursive(
    odd_values,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""Any JSON value."""


def _places(value: Any, path: tuple[Any, ...] = (), levels: int = 8) -> list[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = steps if levels else ()
    return [path, *(place for step, item in inner for place in _places(item, (*path, step), levels - 1))]


def _put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    holder = value
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = new
    return value


@st.composite
def changed(draw: st.DrawFn, valid: Sequence[Any], most: int = 3) -> Any:
    """One of these JSON documents, with up to `most` of its parts replaced, removed, renamed or added."""
    value = copy.deepcopy(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, most))):
        path = draw(st.sampled_from(_places(value)[:300]))
        holder = value
        for step in path[:-1]:
            holder = holder[step]
        match draw(st.sampled_from(["replace", "remove", "rename", "add"])):
            case "remove" if path:
                del holder[path[-1]]
            case "rename" if path and isinstance(holder, dict):
                holder[draw(st.sampled_from(_TEXTS) | st.text(max_size=10))] = holder.pop(path[-1])
            case "add" if isinstance(holder, dict):
                holder[draw(st.text(max_size=10))] = draw(odd_values)
            case _:
                value = _put(value, path, draw(odd_values))
    return value


def _at(data: bytes, share: float) -> int:
    return min(len(data), math.floor(share * (len(data) + 1)))


@st.composite
def damaged(draw: st.DrawFn, valid: Sequence[bytes], most: int = 4) -> bytes:
    """One of these byte strings, with up to `most` places flipped, cut, doubled, overwritten or filled in."""
    data = draw(st.sampled_from(valid))
    share = st.floats(0, 1)
    for _ in range(draw(st.integers(0, most))):
        begin = _at(data, draw(share))
        end = min(len(data), begin + draw(st.sampled_from([1, 1, 2, 4, 8, 64, 1000])))
        match draw(st.sampled_from(["flip", "overwrite", "cut", "double", "fill", "end", "splice"])):
            case "flip" if data:
                begin = min(begin, len(data) - 1)
                data = data[:begin] + bytes([data[begin] ^ (1 << draw(st.integers(0, 7)))]) + data[begin + 1 :]
            case "overwrite":
                filler = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80", b" "]))
                data = data[:begin] + filler * (end - begin) + data[end:]
            case "cut":
                data = data[:begin] + data[end:]
            case "double":
                data = data[:end] + data[begin:end] * draw(st.integers(1, 20)) + data[end:]
            case "fill":
                data = data[:begin] + draw(st.binary(max_size=20)) + data[begin:]
            case "end":
                data = data[:begin]
            case _:
                other = draw(st.sampled_from(valid))
                data = data[:begin] + other[_at(other, draw(share)) :]
    return data


@st.composite
def pieces(draw: st.DrawFn, data: bytes, most: int = 12) -> list[bytes]:
    """The bytes, split at some places; a piece may be empty."""
    places = sorted(_at(data, share) for share in draw(st.lists(st.floats(0, 1), max_size=most)))
    return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]
