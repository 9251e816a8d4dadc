"""Embeddings as binary floats: a third of the JSON, and nothing to parse. numpy only where it is there."""

from __future__ import annotations

import array
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from ml_service_client.errors import UnexpectedAnswer

if TYPE_CHECKING:
    import numpy as np

FLOATS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Array:
    """Numbers in C order: one embedding has shape (384,), a list of two (2, 384)."""

    shape: tuple[int, ...]
    data: array.array[float]  # of float32, flat

    def __len__(self) -> int:
        return self.shape[0]

    def memoryview(self) -> memoryview[float]:
        """No copy, of this shape; `bytes` or any library that knows the buffer protocol can read it."""
        return memoryview(self.data).cast("B").cast("f", list(self.shape))

    def tolist(self) -> list[Any]:
        """Lists of floats, nested as the shape says."""
        return list(self.memoryview().tolist())

    def numpy(self) -> np.ndarray[Any, Any]:
        """A numpy array, without a copy. ImportError where numpy is not installed."""
        import numpy

        return numpy.frombuffer(self.data, dtype=numpy.float32).reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """`numpy.asarray(this)`."""
        found = self.numpy()
        return found.astype(dtype) if dtype is not None or copy else found


def array_of(response: httpx.Response) -> Array:
    """From an answer in application/octet-stream. Raises UnexpectedAnswer where it is something else."""
    told, dtype = response.headers.get("ml-shape", ""), response.headers.get("ml-dtype")
    numbers = array.array("f")
    try:
        shape = tuple(int(part) for part in told.split(","))
        numbers.frombytes(response.content)
    except ValueError:
        shape = ()
    size = 1
    for part in shape:
        size *= part
    if dtype != "float32" or not shape or size != len(numbers):
        said = f"no array of float32: {response.headers.get('content-type')}, {dtype}, shape {told!r}"
        raise UnexpectedAnswer(said, request=response.request, response=response)
    if sys.byteorder == "big":
        numbers.byteswap()
    return Array(shape, numbers)
