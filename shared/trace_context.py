"""W3C trace context, which is handed on whether or not anybody traces here.
https://www.w3.org/TR/trace-context/

What does not follow the grammar is no context: it is dropped, and the call goes on without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 512  # characters of a traceparent of a later version, and of a tracestate
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x20-\x7e]*)?")
_KEY = r"(?:[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
_MEMBER = re.compile(_KEY + r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_MOST_MEMBERS = 32


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Both headers, as they may be sent on."""

    parent: str
    state: str = ""

    def headers(self) -> dict[str, str]:
        """`traceparent`, and `tracestate` where there is one."""
        return {"traceparent": self.parent} | ({"tracestate": self.state} if self.state else {})

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.parent[3:35]


def parse(parent: Any, state: Any = "") -> TraceContext | None:
    """None for what is no `traceparent`. A wrong `tracestate` is dropped alone."""
    if not isinstance(parent, str) or len(parent) > _MOST or not (found := _PARENT.fullmatch(parent.strip(" \t"))):
        return None
    version, trace_id, span_id, _, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(found.group(), _state(state))


def of(headers: Mapping[str, Any]) -> TraceContext | None:
    """Of a message's headers, or a record's fields."""
    return parse(headers.get("traceparent"), headers.get("tracestate"))


def _state(text: Any) -> str:
    if not isinstance(text, str) or len(text) > _MOST:
        return ""
    members = [member.strip(" \t") for member in text.split(",")]
    members = [member for member in members if member]
    keys = {member.partition("=")[0] for member in members}
    if len(members) > _MOST_MEMBERS or len(keys) < len(members) or not all(map(_MEMBER.fullmatch, members)):
        return ""
    return ",".join(members)
