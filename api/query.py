"""Query parameters that a call does not know are refused: a mistyped filter would let everything through."""

from __future__ import annotations

from fastapi import Request

from api.inputs import pointer
from shared.errors import Fault, InvalidInput


def known_query(request: Request, *names: str) -> None:
    """Raises InvalidInput for any other than these."""
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in names]
    if unknown:
        message = f"there is no query parameter {unknown[0][:40]!r} here; there are {', '.join(names)}"
        raise InvalidInput(message, faults=[Fault(pointer=pointer([name]), message=message) for name in unknown[:100]])
