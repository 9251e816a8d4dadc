"""The Prefer header (RFC 7240): `respond-async`, `wait=N`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of HTTP's grammar
_PREFERENCE = re.compile(rf'\s*({_TOKEN})\s*(?:=\s*("(?:[^"\\]|\\.)*"|{_TOKEN})?)?\s*((?:;[^,]*)?)\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class Prefer:
    """`wait_s` is None where the caller states none; a bare `wait` is as long as it may be (infinite here)."""

    respond_async: bool = False
    wait_s: float | None = None


def parse_prefer(headers: Iterable[str]) -> Prefer:
    """All Prefer headers of a request, read as one list. Preferences are wishes: what is not understood is ignored,
    of a repeated one the first counts."""
    seen: dict[str, str] = {}
    text = ",".join(headers)
    at = 0
    while at < len(text):
        match = _PREFERENCE.match(text, at)
        if match is None or match.end() == at:
            comma = text.find(",", at)
            at = len(text) if comma < 0 else comma + 1
            continue
        name, value = match[1].lower(), (match[2] or "").strip('"')
        seen.setdefault(name, value)
        at = match.end()
    wait = seen.get("wait")
    wait_s = None
    if wait == "":
        wait_s = float("inf")
    elif wait is not None and wait.isascii() and wait.isdigit():
        wait_s = float(wait[:9])
    return Prefer("respond-async" in seen, wait_s)
