"""Bytes of a file to a picture, for every handler that takes images."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from worker.handler import ItemError

MAX_PIXELS = 89_000_000  # Pillow's own warning level; above it a small file can fill the memory


def decode_image(data: bytes, *, pointer: str = "/image") -> Image.Image:
    """RGB, upright (EXIF orientation applied), fully read. Raises ItemError for anything else than an image: a
    truncated file, a wrong format, more than 89 megapixels. Any thread."""
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise ItemError(f"the image has more than {MAX_PIXELS} pixels", pointer=pointer)
        return ImageOps.exif_transpose(image).convert("RGB")
    except ItemError:
        raise
    except Image.DecompressionBombError:
        raise ItemError(f"the image has more than {MAX_PIXELS} pixels", pointer=pointer) from None
    # Decoders raise all of OSError, ValueError, SyntaxError, struct.error, IndexError ... on broken files.
    except Exception as error:
        raise ItemError(f"not a readable image ({type(error).__name__})", pointer=pointer) from None


def sample_image(size: int = 64) -> bytes:
    """A small PNG for examples and warm-up: a colour gradient."""
    gradient = Image.linear_gradient("L").resize((size, size))
    image = Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180)))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
