"""Bodies that a plain Celery producer has compressed (`compression=` of `send_task`), opened no further than a bound.

Kombu would open them whole, and before anything of ours can look: a message of some kilobytes could end every worker
that takes it, one after the other.
"""

from __future__ import annotations

import base64
import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

MAX_BYTES = 64_000_000  # the largest body that the API takes by default, in base64, and some more
_MAX_DICTIONARY = 100_000_000  # of lzma: what its head may ask for; level 9 of xz asks for 65 MB

_OPENERS: dict[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lambda: lzma.LZMADecompressor(memlimit=_MAX_DICTIONARY),
}


def open_body(message: dict[str, Any]) -> None:
    """The message as if its producer had not compressed it, changed in place. Raises ValueError for another method
    than Celery's gzip, bzip2 and lzma, for broken data, and for more than MAX_BYTES."""
    method = message["headers"].pop("compression", None)
    if method is None:
        return
    if message["properties"].get("body_encoding") != "base64" or method not in _OPENERS:
        raise ValueError(f"compression {str(method)[:40]!r} is not read")
    opener = _OPENERS[method]()
    try:
        body = opener.decompress(base64.b64decode(message["body"]), MAX_BYTES)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise ValueError(f"the body cannot be opened: {type(error).__name__}") from None
    if not opener.eof:
        raise ValueError(f"the body is cut off, or has more than {MAX_BYTES} bytes")
    message["body"] = base64.b64encode(body).decode()
