"""Outputs as bytes: an array of numbers as float32, little-endian, in C order, its shape in a header. A vector of 384
numbers has 1,536 bytes so, and about 8,000 as JSON."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from typing import Any

from fastapi.responses import Response

from api.accept import quality
from shared.errors import NotAcceptable

OCTETS, JSON = "application/octet-stream", "application/json"


def wants_binary(accept: Iterable[str]) -> bool:
    """Whether a caller would rather have bytes than JSON: it weighs them more, or as much and names only them."""
    headers = list(accept)
    weight = quality(headers, OCTETS)
    return weight[0] > 0 and weight > quality(headers, JSON)


def takes_json(accept: Iterable[str]) -> bool:
    """Whether it has named JSON, or anything, beside bytes: for an output that is no array."""
    return quality(accept, JSON)[0] > 0


def binary_response(output: Any, headers: dict[str, str]) -> Response:
    """An output with `embedding` or `embeddings`, a list of such, or an array of numbers. Raises NotAcceptable for any
    other, for one with holes (`parameters.partial`), and for one whose rows differ in length."""
    numbers = array("f")
    shape = flatten(_vectors(output), numbers)
    told = {"ML-Shape": ",".join(map(str, shape)), "ML-Dtype": "float32"}
    return Response(little_endian(numbers), headers=headers | told, media_type=OCTETS)


def _vectors(output: Any) -> Any:
    if isinstance(output, dict):
        return output.get("embeddings", output.get("embedding"))
    if isinstance(output, list) and output and all(isinstance(one, dict) for one in output):
        return [one.get("embedding") for one in output]
    return output


def little_endian(numbers: array[float]) -> bytes:
    """Whatever this machine's order is. `numbers` are used up."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def flatten(value: Any, numbers: array[float]) -> list[int]:
    """Appends what is in it; its shape. Raises NotAcceptable for what is no array of numbers."""
    if not isinstance(value, list) or not value:
        raise NotAcceptable
    if not isinstance(value[0], list):
        if not all(type(number) in (float, int) for number in value):  # true and false are no numbers
            raise NotAcceptable
        try:
            numbers.extend(value)
        except OverflowError:
            raise NotAcceptable from None
        return [len(value)]
    shapes = [flatten(row, numbers) for row in value]
    if any(shape != shapes[0] for shape in shapes):
        raise NotAcceptable
    return [len(value), *shapes[0]]
