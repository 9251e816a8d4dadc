"""Tensors on the wire: numpy says what is right."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from api.tensors import DATATYPES, Tensor, TensorError, from_bytes, from_json, of_values, to_bytes, to_json

NUMPY = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
shapes = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


@given(st.data(), st.sampled_from(sorted(NUMPY)), shapes)
def test_numbers_go_both_ways(data: st.DataObject, datatype: str, shape: tuple[int, ...]) -> None:
    array = data.draw(arrays.arrays(np.dtype(NUMPY[datatype]), shape))
    tensor = from_bytes("x", datatype, shape, memoryview(array.tobytes()))
    assert to_bytes(tensor) == array.tobytes()
    assert len(tensor.rows()) == shape[0]
    if array.dtype.kind != "f" or np.isfinite(array).all():
        again = from_json("x", datatype, shape, array.tolist())
        assert to_bytes(again) == array.tobytes()
        assert tensor.rows() == array.tolist() == from_json("x", datatype, shape, to_json(tensor)).rows()


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_go_both_ways(values: list[bytes]) -> None:
    tensor = Tensor("x", "BYTES", (len(values),), values)
    raw = to_bytes(tensor)
    assert list(from_bytes("x", "BYTES", (len(values),), memoryview(raw)).values) == values
    with pytest.raises(TensorError):
        from_bytes("x", "BYTES", (len(values) + 1,), memoryview(raw))
    with pytest.raises(TensorError):
        from_bytes("x", "BYTES", (len(values),), memoryview(raw + b"x"))


@given(st.binary(max_size=64), st.sampled_from(DATATYPES), st.lists(st.integers(-2, 9), max_size=9))
def test_anything_else_is_refused(raw: bytes, datatype: str, shape: list[int]) -> None:
    with contextlib.suppress(TensorError):
        tensor = from_bytes("x", datatype, tuple(shape), memoryview(raw))
        assert len(tensor.values) == math.prod(shape)


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("BF16", (1,), [1.0]),
        ("FP32", (2,), [1.0]),
        ("FP32", (1,), ["a"]),
        ("FP32", (1,), [True]),
        ("FP32", (1,), [None]),
        ("FP32", (1,), None),
        ("INT8", (1,), [128]),
        ("INT8", (1,), [1.5]),
        ("UINT64", (1,), [-1]),
        ("BOOL", (1,), [1]),
        ("BYTES", (1,), [1]),
        ("INT32", (-1,), [1]),
        ("INT32", (2**62, 2**62), [1]),
        ("INT32", (1,) * 9, [1]),
    ],
)
def test_json_that_does_not_fit(datatype: str, shape: tuple[int, ...], data: Any) -> None:
    with pytest.raises(TensorError):
        from_json("x", datatype, shape, data)


def test_integral_floats_are_integers() -> None:
    assert from_json("x", "INT32", (1,), [3.0]).values == [3]


@pytest.mark.parametrize(
    ("rows", "datatype", "shape"),
    [
        ([[1.0, 2], [3, 4.5]], "FP32", (2, 2)),
        ([1, 2], "INT64", (2,)),
        ([True], "BOOL", (1,)),
        (["a", "\u00e4"], "BYTES", (2,)),
    ],
)
def test_rows_of_one_kind_are_a_tensor(rows: list[Any], datatype: str, shape: tuple[int, ...]) -> None:
    tensor = of_values("x", rows)
    assert tensor is not None
    assert (tensor.datatype, tensor.shape) == (datatype, shape)


@pytest.mark.parametrize("rows", [[[1], [1, 2]], [[1], 2], [1, "a"], [None], [{}], [[]], [[[1]], [[]]]])
def test_others_are_none(rows: list[Any]) -> None:
    assert of_values("x", rows) is None
