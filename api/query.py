"""What calls ask for beside their body, in the query and in headers. Query parameters that a call does not know are
refused: a mistyped filter would let everything through."""

from __future__ import annotations

import math
import re

from fastapi import Request

from api.docs import IDEMPOTENCY_KEY
from api.inputs import pointer
from api.prefer import parse_prefer
from shared.errors import BadRequest, Fault, InvalidInput
from shared.settings import Settings


def known_query(request: Request, *names: str) -> None:
    """Raises InvalidInput for any other than these."""
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in names]
    if unknown:
        message = f"there is no query parameter {unknown[0][:40]!r} here; there are {', '.join(names)}"
        raise InvalidInput(message, faults=[Fault(pointer=pointer([name]), message=message) for name in unknown[:100]])


def limit_of(given: str | None, *, default: int, most: int) -> int:
    """How many a page may have. Raises InvalidInput."""
    if given is None:
        return default
    if not (given.isascii() and given.isdigit() and len(given) <= len(str(most)) and 1 <= int(given) <= most):
        raise InvalidInput(f"limit must be a number from 1 to {most}, not {given[:40]!r}")
    return int(given)


def held_s(request: Request, most: float) -> float:
    """How long (s) a GET is to be held, `most` at most. Raises InvalidInput."""
    given = request.query_params.get("wait")
    if given is None:
        return min(most, parse_prefer(request.headers.getlist("prefer")).wait_s or 0.0)
    try:
        wait_s = float(given)
    except ValueError:
        wait_s = -1.0
    if not (wait_s >= 0 and math.isfinite(wait_s)):
        raise InvalidInput(f"wait must be a number of seconds, not {given[:40]!r}")
    return min(most, wait_s)


def patience_s(request: Request, settings: Settings) -> float:
    """How long the caller waits: what it says, less a moment for the way, or 25 s (`ML_INFERENCE_WAIT_S`)."""
    try:
        told = float(request.headers.get("x-stainless-read-timeout", ""))
    except ValueError:
        return settings.inference_wait_s
    if not math.isfinite(told) or told <= 0:
        return settings.inference_wait_s
    return min(max(told - 0.5, told / 2), settings.max_wait_s)


def idempotency_key(request: Request) -> str | None:
    """The header's value. Raises BadRequest for one that is empty, too long or not plain ASCII."""
    key = request.headers.get("idempotency-key")
    if key is not None and not (len(key) <= 255 and re.search(IDEMPOTENCY_KEY, key)):
        raise BadRequest("Idempotency-Key must have 1 to 255 characters, all of them printable ASCII")
    return key
