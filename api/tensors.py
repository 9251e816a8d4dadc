"""Tensors as the Open Inference Protocol v2 has them, in JSON or as bytes behind it. Pure; no numpy.

https://github.com/kserve/open-inference-protocol (`specification/protocol/inference_rest.md`) and Triton's binary
tensor data extension. Bytes are little-endian, in C order; an element of BYTES is its length (4 bytes) and its bytes.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from api.binary import little_endian

_FORMATS = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
DATATYPES = (*_FORMATS, "BYTES")
_MOST_DIMS = 8


class TensorError(ValueError):
    """What is wrong with a tensor, in words."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`values` are flat, in C order: numbers, or bytes where the datatype is BYTES."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]

    def rows(self) -> list[Any]:
        """By the first dimension: nested lists; numbers, booleans or bytes of a tensor of one dimension."""
        if not self.shape:
            return list(self.values)
        return list(_nested(iter(self.values), self.shape))

    def row_bytes(self) -> Iterator[bytes]:
        """Each row's numbers as float32."""
        size = math.prod(self.shape[1:])
        for row in range(self.shape[0]):
            yield little_endian(array("f", self.values[row * size : (row + 1) * size]))


def _nested(values: Iterator[Any], shape: tuple[int, ...]) -> Iterator[Any]:
    for _ in range(shape[0]):
        yield next(values) if len(shape) == 1 else list(_nested(values, shape[1:]))


def check_shape(datatype: str, shape: tuple[int, ...]) -> int:
    """How many elements it has. Raises TensorError."""
    if datatype not in DATATYPES:
        raise TensorError(f"datatype {datatype!r} is not supported; one of {', '.join(DATATYPES)}")
    if len(shape) > _MOST_DIMS or any(size < 0 for size in shape):
        raise TensorError(f"a shape has up to {_MOST_DIMS} dimensions, none of them negative")
    return math.prod(shape)


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    """`data` is flat, or nested as the shape says. Raises TensorError."""
    count = check_shape(datatype, shape)
    values = list(_flat(data))
    if len(values) != count:
        raise TensorError(f"the shape {list(shape)} has {count} elements, the data {len(values)}")
    return Tensor(name, datatype, shape, [_checked(datatype, value) for value in values])


def _flat(data: Any) -> Iterator[Any]:
    if isinstance(data, list):
        for one in data:
            yield from _flat(one)
    else:
        yield data


def _checked(datatype: str, value: Any) -> Any:
    if datatype == "BYTES":
        if isinstance(value, str):
            return value.encode()
    elif datatype == "BOOL":
        if isinstance(value, bool):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if datatype.startswith("FP"):
            return float(value)
        if value == int(value):  # 3.0 is what some clients make of 3
            value = int(value)
            try:
                struct.pack("<" + _FORMATS[datatype], value)
            except struct.error:
                raise TensorError(f"{value} is not in the range of {datatype}") from None
            return value
    raise TensorError(f"{str(value)[:50]!r} is no {datatype}")


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], raw: memoryview) -> Tensor:
    """Raises TensorError."""
    count = check_shape(datatype, shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, list(_strings(raw, count)))
    form = _FORMATS[datatype]
    size = struct.calcsize("<" + form)
    if len(raw) != count * size:
        raise TensorError(f"the shape {list(shape)} has {count * size} bytes as {datatype}, the data {len(raw)}")
    if form in "?e":  # array knows neither
        return Tensor(name, datatype, shape, struct.unpack(f"<{count}{form}", raw))
    values: array[Any] = array(form)
    values.frombytes(raw)
    if sys.byteorder == "big":
        values.byteswap()
    return Tensor(name, datatype, shape, values)


def _strings(raw: memoryview, count: int) -> Iterator[bytes]:
    at = 0
    for _ in range(count):
        if len(raw) < at + 4:
            raise TensorError(f"the data end before the last of {count} elements")
        (size,) = struct.unpack_from("<I", raw, at)
        at += 4
        if len(raw) < at + size:
            raise TensorError(f"the data end before the last of {count} elements")
        yield bytes(raw[at : at + size])
        at += size
    if at != len(raw):
        raise TensorError(f"{len(raw) - at} bytes are left behind the last of {count} elements")


def to_bytes(tensor: Tensor) -> bytes:
    """The other way round."""
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in tensor.values)
    return struct.pack(f"<{len(tensor.values)}{_FORMATS[tensor.datatype]}", *tensor.values)


def to_json(tensor: Tensor) -> list[Any]:
    """Flat. What of BYTES is no UTF-8 has U+FFFD in its place, as JSON has no bytes."""
    if tensor.datatype == "BYTES":
        return [value.decode(errors="replace") for value in tensor.values]
    return list(tensor.values)


def of_values(name: str, rows: list[Any]) -> Tensor | None:
    """Rows of one shape and one kind as a tensor: numbers (FP32; INT64 where all are whole), truths, texts, or lists of
    such. None: they are not."""
    shape = _shape(rows)
    values = list(_flat(rows))
    if shape is None or math.prod(shape) != len(values):
        return None
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return Tensor(name, "BYTES", shape, [value.encode() for value in values])
    if kinds == {bool}:
        return Tensor(name, "BOOL", shape, values)
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values):
        return Tensor(name, "INT64", shape, values)
    if kinds and kinds <= {int, float}:
        return Tensor(name, "FP32", shape, [float(value) for value in values])
    return None


def _shape(rows: Any) -> tuple[int, ...] | None:
    if not isinstance(rows, list):
        return ()
    inner = {_shape(row) for row in rows}
    if len(inner) != 1 or None in inner:
        return None if rows else (0,)
    (shape,) = inner
    return (len(rows), *(shape or ()))
