"""The Accept header (RFC 9110, 12.5.1), as far as one asks whether a type is wanted, and how much."""

from __future__ import annotations

import re
from collections.abc import Iterable

_Q = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


def quality(headers: Iterable[str], kind: str) -> tuple[float, int]:
    """What all Accept headers of a request, read as one list, say of `kind` (`type/subtype`): its weight, 0 to 1, by
    the range that names it most closely, and how closely that is: 2 itself, 1 `type/*`, 0 `*/*`, or no range at all.
    Without any header everything is welcome. What cannot be read is passed over."""
    text = ",".join(headers)
    if not text.strip():
        return 1.0, 0
    ranges: dict[str, float] = {}
    for part in text.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        given = next((value.strip() for key, _, value in (p.partition("=") for p in parameters) if key == "q"), "1")
        if _Q.fullmatch(given):
            ranges.setdefault(name, float(given))
    for closeness, name in ((2, kind), (1, f"{kind.partition('/')[0]}/*"), (0, "*/*")):
        if name in ranges:
            return ranges[name], closeness
    return 0.0, 0
