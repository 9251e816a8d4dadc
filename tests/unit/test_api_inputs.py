"""Checks of inputs before they are accepted: schemas, base64, uploads, nesting."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bodies import read_json
from api.inputs import SchemaCheck, TaskCheck, place
from api.schema_walk import blob_fields, decode, has_blobs
from shared.depth import MAX_DEPTH
from shared.errors import BadRequest, InvalidInput
from shared.tasks import BUILT_IN

TEXT = base64.b64encode(b"abc").decode()


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_tasks_schema_is_read_for_blobs(name: str) -> None:
    task = BUILT_IN[name]
    schema = task.input_schema()
    fields = blob_fields(schema)
    assert has_blobs(schema) or not fields, "what has a binary field is walked"
    if task.many and task.many[0] in fields:
        assert (fields[task.many[0]], fields[task.many[1]]) == (False, True)


def test_blobs_become_bytes_wherever_they_are() -> None:
    check = TaskCheck(BUILT_IN["image-classification"])
    assert check.check({"image": TEXT}, {}) == {"image": b"abc"}
    assert check.check({"images": [TEXT, f"data:image/png;base64,{TEXT}"]}, {}) == {"images": [b"abc", b"abc"]}
    assert check.check([{"image": TEXT}], {}) == [{"image": b"abc"}]
    assert list(check.blobs) == ["image", "images"]


def test_text_stays_text() -> None:
    check = TaskCheck(BUILT_IN["text-embedding"])
    assert check.check({"texts": [TEXT]}, {}) == {"texts": [TEXT]}
    assert check.blobs == {}


def test_what_may_be_text_is_not_decoded() -> None:
    blob = {"type": "string", "contentEncoding": "base64"}
    either = {"properties": {"a": {"anyOf": [blob, {"type": "string"}]}, "b": {"anyOf": [blob, {"type": "null"}]}}}
    assert decode({"a": TEXT, "b": TEXT, "c": TEXT}, [either], {}) == {"a": TEXT, "b": b"abc", "c": TEXT}


def test_recursive_schemas_end() -> None:
    node = {"properties": {"blob": {"contentEncoding": "base64", "type": "string"}, "next": {"$ref": "#/$defs/Node"}}}
    loop = {"$ref": "#/$defs/Loop"}
    schema = {"$ref": "#/$defs/Node", "$defs": {"Node": node, "Loop": loop}}
    value = {"blob": TEXT, "next": {"blob": TEXT, "next": {}}}
    assert decode(value, [schema], schema["$defs"]) == {"blob": b"abc", "next": {"blob": b"abc", "next": {}}}
    assert decode("x", [loop], schema["$defs"]) == "x"


def test_partial_lets_bad_items_through() -> None:
    check = TaskCheck(BUILT_IN["image-classification"])
    assert check.check({"images": [TEXT, "%"]}, {"partial": True}) == {"images": [b"abc", "%"]}
    with pytest.raises(InvalidInput) as caught:
        check.check({"images": [TEXT, "%"]}, {})
    assert [fault.pointer for fault in caught.value.faults] == ["/images/1"]


def test_raw_bytes_are_not_for_the_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "minLength": 3}}, "required": ["a"]}
    check = SchemaCheck(schema, None)
    assert check.check({"a": b"\xff"}, {}) == {"a": b"\xff"}
    with pytest.raises(InvalidInput):
        check.check({"a": "x"}, {})


def test_pointers_are_escaped() -> None:
    check = SchemaCheck({"type": "object", "properties": {"a/b": {"type": "object"}}}, None)
    with pytest.raises(InvalidInput) as caught:
        check.check({"a/b": 1}, {})
    assert caught.value.faults[0].pointer == "/a~1b"


def test_at_most_a_hundred_faults() -> None:
    check = SchemaCheck({"type": "array", "items": {"type": "string"}}, None)
    with pytest.raises(InvalidInput) as caught:
        check.check(list(range(5000)), {})
    assert len(caught.value.faults) == 100


@pytest.mark.parametrize(
    ("base", "files", "blobs", "expected"),
    [
        ({"a": 1}, [], {}, {"a": 1}),
        (None, [("", b"x")], {}, {"image": b"x"}),
        (None, [("", b"x")], {"audio": False}, {"audio": b"x"}),
        (None, [("images", b"x")], {"image": False, "images": True}, {"images": [b"x"]}),
        ({"q": 1}, [("a", b"x"), ("a", b"y")], {}, {"q": 1, "a": [b"x", b"y"]}),
    ],
)
def test_uploads(base: Any, files: list[tuple[str, bytes]], blobs: dict[str, bool], expected: Any) -> None:
    assert place(base, files, blobs) == expected


def test_uploads_beside_no_object() -> None:
    with pytest.raises(InvalidInput):
        place([1], [("a", b"x")], {})


@given(st.integers(1, 260))
def test_depth(depth: int) -> None:
    body = b"[" * depth + b"]" * depth
    if depth <= MAX_DEPTH:
        read_json(body)
    else:
        with pytest.raises(BadRequest):
            read_json(body)


def test_many_brackets_are_not_deep() -> None:
    assert len(read_json(b"[" + b"[1]," * 5000 + b"[1]]")) == 5001
