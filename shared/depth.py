"""How deep JSON may be nested here: orjson reads 1,024 levels and writes 254."""

from __future__ import annotations

from typing import Any

import orjson

MAX_DEPTH = 200  # a message, an outcome and an answer add some levels of their own
_WRITTEN = 254


def too_deep(value: Any, most: int = MAX_DEPTH) -> bool:
    """Whether JSON data has more levels. orjson's own limit finds it: much faster than a walk over a large list of
    numbers."""
    for _ in range(_WRITTEN - most):
        value = [value]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return True
    return False
