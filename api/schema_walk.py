"""Where the binary parts of an input are, by its JSON schema: `contentEncoding: base64` marks them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def alternatives(schema: Schema, defs: Schema) -> Iterator[Schema]:
    """A schema's plain alternatives: references followed, anyOf, oneOf and allOf opened."""
    seen: set[str] = set()
    todo = [schema]
    while todo:
        one = todo.pop()
        reference = one.get("$ref")
        if isinstance(reference, str):
            if reference not in seen:
                seen.add(reference)
                todo.append(defs.get(reference.rpartition("/")[2], {}))
            continue
        nested = [part for word in ("anyOf", "oneOf", "allOf") for part in one.get(word, ())]
        todo += nested
        if not nested or "type" in one:
            yield one


def is_blob(schema: Schema) -> bool:
    """Whether the value is base64 in JSON and bytes inside."""
    return schema.get("contentEncoding") == "base64"


def has_blobs(schema: Any) -> bool:
    """Whether there is a binary part anywhere; a quick no spares walking each input."""
    if isinstance(schema, dict):
        return is_blob(schema) or any(has_blobs(part) for part in schema.values())
    return isinstance(schema, list) and any(has_blobs(part) for part in schema)


def blob_fields(schema: Schema) -> dict[str, bool]:
    """The binary fields at an input's top level, in order: name -> whether it takes a list."""
    defs = schema.get("$defs", {})
    found: dict[str, bool] = {}
    # Opened from a stack, last form first: the singular form stands first in a task's schema.
    for form in reversed(list(alternatives(schema, defs))):
        for name, field in form.get("properties", {}).items():
            for one in alternatives(field, defs):
                if is_blob(one):
                    found.setdefault(name, False)
                elif one.get("type") == "array" and any(is_blob(i) for i in alternatives(one.get("items", {}), defs)):
                    found.setdefault(name, True)
    return found


def decode(value: Any, schemas: list[Schema], defs: Schema) -> Any:
    """`value` with its base64 parts as bytes, changed in place. What is no valid base64 stays text: the check tells."""
    plain = [one for schema in schemas for one in alternatives(schema, defs)]
    if isinstance(value, str):
        texts = [one for one in plain if one.get("type") == "string"]
        return _decoded(value) if texts and all(map(is_blob, texts)) else value
    if isinstance(value, list):
        items = [one["items"] for one in plain if isinstance(one.get("items"), dict)]
        if items:
            for index, item in enumerate(value):
                value[index] = decode(item, items, defs)
    elif isinstance(value, dict):
        for name, item in value.items():
            fields = [one["properties"][name] for one in plain if name in one.get("properties", {})]
            if fields:
                value[name] = decode(item, fields, defs)
    return value


def _decoded(text: str) -> str | bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text
