"""Large and binary inputs leave the message and come back whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.payloads import attach, detach

leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.binary(max_size=40)
json_with_bytes = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(st.text(), json_with_bytes, max_size=4), st.integers(0, 200))
def test_what_is_detached_comes_back(value: dict[str, Any], inline_bytes: int) -> None:
    import copy

    original = copy.deepcopy(value)
    detached = detach(value, inline_bytes)
    assert len(detached.pointers) == len(detached.parts)
    assert attach(detached.input, detached.pointers, detached.parts) == original


def test_small_json_stays_in_the_message() -> None:
    detached = detach({"text": "a"}, 100)
    assert (detached.input, detached.pointers, detached.size) == ({"text": "a"}, [], len('{"text":"a"}'))


def test_bytes_always_leave_and_count() -> None:
    detached = detach({"images": [b"1", b"22"], "a/b": b"333"}, 100)
    assert detached.pointers == ["/images/0", "/images/1", "/a~1b"]
    assert detached.parts == [b"1", b"22", b"333"]
    assert detached.input == {"images": [None, None], "a/b": None}


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError):
        detach({"x": object()}, 10)
