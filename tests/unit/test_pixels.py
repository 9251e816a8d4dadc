"""Pixels that came as an array: numpy says what a .npy file is, a classifier what it makes of one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

from api.oip import npy_head
from worker.handler import ItemError
from worker.handlers.images import decode_image, pixels_of, sample_image


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=array.dtype == object)
    return out.getvalue()


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 224, 224), (3, 10_000, 2)])
def test_our_head_is_numpys(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype="<f4").reshape(shape)
    assert np.array_equal(np.load(io.BytesIO(npy_head(shape) + array.tobytes()), allow_pickle=False), array)


def test_an_array_is_taken_as_it_is_and_a_file_is_preprocessed() -> None:
    array = np.random.default_rng(1).random((3, 4, 5), dtype=np.float32)
    assert torch.equal(pixels_of(npy(array), lambda _: pytest.fail("nothing to preprocess")), torch.from_numpy(array))
    assert pixels_of(sample_image(8), lambda image: image.size) == (8, 8)


@pytest.mark.parametrize(
    "data",
    [
        npy(np.zeros((3, 4), dtype=np.float32)),
        npy(np.zeros((1, 4, 4), dtype=np.float32)),
        npy(np.zeros((3, 0, 4), dtype=np.float32)),
        npy(np.zeros((3, 4, 4), dtype=np.float64)),
        npy(np.full((3, 4, 4), np.nan, dtype=np.float32)),
        npy(np.array([{}], dtype=object)),
        npy(np.zeros((3, 4, 4), dtype=np.float32))[:-1],
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 100,
    ],
)
def test_others_are_refused(data: bytes) -> None:
    with pytest.raises(ItemError) as caught:
        pixels_of(data, lambda image: image)
    assert caught.value.pointer == "/image"


def test_a_model_that_takes_only_files_says_so() -> None:
    with pytest.raises(ItemError, match="takes image files, not pixels"):
        decode_image(npy(np.zeros((3, 4, 4), dtype=np.float32)))
