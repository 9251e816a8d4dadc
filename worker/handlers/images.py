"""Bytes of a file to a picture, for every handler that takes images."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageOps

from worker.handler import ItemError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 89_000_000  # Pillow's own warning level; above it a small file can fill the memory
NPY = b"\x93NUMPY"
MAX_RATIO = 100  # resized by its short side, a picture of 1 x 50,000 would become one of 224 x 11,200,000


def decode_image(data: bytes, *, pointer: str = "/image") -> Image.Image:
    """RGB, upright (EXIF orientation applied), fully read; of an animation the first frame. Raises ItemError for
    anything else than an image of FORMATS: a truncated file, another format (some of Pillow's call other programs),
    more than 89 megapixels, a side more than a hundred times the other. Any thread."""
    if data.startswith(NPY):
        raise ItemError("this model takes image files, not pixels", pointer=pointer)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        short, long = sorted(image.size)
        if short * long > MAX_PIXELS:
            raise ItemError(f"the image has more than {MAX_PIXELS} pixels", pointer=pointer)
        if long > short * MAX_RATIO:
            raise ItemError(f"one side of the image is more than {MAX_RATIO} times the other", pointer=pointer)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # a copy would cost as much memory again
        return image if image.mode == "RGB" else _to_rgb(image)
    except ItemError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ItemError(f"the image has more than {MAX_PIXELS} pixels", pointer=pointer) from None
    # Decoders raise all of OSError, ValueError, SyntaxError, struct.error, IndexError ... on broken files.
    except Exception as error:
        raise ItemError(f"not a readable image ({type(error).__name__})", pointer=pointer) from None


def pixels_of(data: bytes, preprocess: Callable[[Image.Image], Any]) -> Any:
    """A picture's pixels, a tensor [3, H, W]: of a file what `preprocess` makes of it; a .npy file has them already
    (the Open Inference Protocol's way, api/oip.py). Raises ItemError as `decode_image`, and for another array. Any
    thread."""
    if not data.startswith(NPY):
        return preprocess(decode_image(data))
    import numpy as np
    import torch

    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    # A header that is none: ValueError, SyntaxError, KeyError, EOFError ...
    except Exception as error:
        raise ItemError(f"not a readable array ({type(error).__name__})", pointer="/image") from None
    if array.dtype != np.float32 or array.ndim != 3 or array.shape[0] != 3 or not 1 <= array[0].size <= MAX_PIXELS:
        raise ItemError(f"pixels are float32 [3, H, W], not {array.dtype} {list(array.shape)}", pointer="/image")
    if not np.isfinite(array).all():
        raise ItemError("pixels are finite numbers", pointer="/image")
    return torch.from_numpy(array)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would make all above 255 white
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    return image.convert("RGB")


def sample_image(size: int = 64) -> bytes:
    """A small PNG for examples and warm-up: a colour gradient."""
    gradient = Image.linear_gradient("L").resize((size, size))
    image = Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180)))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
