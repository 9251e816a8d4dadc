"""Outcomes as they are stored."""

from __future__ import annotations

import orjson
import pytest

from shared.outcomes import encode_outcome
from shared.types import Outcome, State


def _stored(output: object) -> object:
    return orjson.loads(encode_outcome("j", Outcome(State.SUCCEEDED, output=output)))["result"]


def test_bytes_become_base64_as_they_came() -> None:
    assert _stored({"image": b"\xff\xd8", "more": [bytearray(b"a"), memoryview(b"b")]}) == {
        "image": "/9g=",
        "more": ["YQ==", "Yg=="],
    }


def test_what_is_no_json_data_is_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        _stored({1, 2})
