"""Content types as requests tell them. They are read liberally, for clients send odd ones."""

from __future__ import annotations

from starlette.types import Scope

JSON_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines"})
_TAKEN_FOR_JSON = {"", "text/plain", "text/json", "application/x-www-form-urlencoded"}


def content_type(scope: Scope) -> str:
    """Of a request, as `plain_kind`."""
    found = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return plain_kind(found.decode("latin-1"))


def plain_kind(told: str) -> str:
    """Without its parameters; empty where there is none."""
    return told.partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Of a plain kind."""
    return kind == "application/json" or kind.endswith("+json")


def taken_for_json(kind: str) -> bool:
    """Of a request's plain kind: also what clients write before JSON without a thought."""
    return is_json(kind) or kind in _TAKEN_FOR_JSON
