"""Who wants bytes, and what becomes of an output as bytes."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from api.accept import quality
from api.binary import binary_response, takes_json, wants_binary
from shared.errors import NotAcceptable


@pytest.mark.parametrize(
    ("accept", "binary"),
    [
        ([], False),
        ([""], False),
        (["*/*"], False),
        (["application/*"], False),
        (["application/json"], False),
        (["application/octet-stream"], True),
        (["APPLICATION/Octet-Stream"], True),
        (["application/octet-stream, application/json"], False),
        (["application/json, application/octet-stream"], False),
        (["application/octet-stream", "application/json;q=0.5"], True),
        (["application/octet-stream;q=0.5, application/json"], False),
        (["application/octet-stream;q=0.5, application/json;q=0.4"], True),
        (["application/octet-stream, */*"], True),
        (["application/octet-stream, */*;q=0.1"], True),
        (["application/octet-stream;q=0.1, */*"], False),
        (["application/octet-stream;q=0, */*"], False),
        (["application/octet-stream;q=0"], False),
        (["*/*, application/json;q=0"], True),
        (["application/*, application/json;q=0.2"], True),
        (["text/html"], False),
        (["application/octet-stream;q=high, application/json"], False),
        (["application/octet-stream; q=0.8 ;v=1, application/json ; q=0.7"], True),
        ([";;,,=,q=1"], False),
    ],
)
def test_bytes_are_for_who_would_rather_have_them(accept: list[str], binary: bool) -> None:
    assert wants_binary(accept) is binary


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        (["application/octet-stream"], False),
        (["application/octet-stream, */*;q=0.1"], True),
        (["application/octet-stream, application/json;q=0"], False),
        ([], True),
    ],
)
def test_json_where_it_was_named(accept: list[str], json: bool) -> None:
    assert takes_json(accept) is json


def test_the_closest_range_counts() -> None:
    accept = ["*/*;q=0.1, application/*;q=0.2, application/json;q=0.3"]
    found = [quality(accept, kind) for kind in ("application/json", "application/xml", "text/html")]
    assert found == [(0.3, 2), (0.2, 1), (0.1, 0)]


@pytest.mark.parametrize(
    ("output", "shape", "numbers"),
    [
        ({"embedding": [1.5, -2, 0.25]}, "3", [1.5, -2, 0.25]),
        ({"embedding": [1.5], "truncated": True}, "1", [1.5]),
        ({"embeddings": [[1, 2], [3, 4], [5, 6]]}, "3,2", [1, 2, 3, 4, 5, 6]),
        ([{"embedding": [1, 2]}, {"embedding": [3, 4], "truncated": True}], "2,2", [1, 2, 3, 4]),
        ([0.5, 1], "2", [0.5, 1]),
        ([[[1, 2]], [[3, 4]]], "2,1,2", [1, 2, 3, 4]),
    ],
)
def test_an_array_is_little_endian_in_c_order(output: Any, shape: str, numbers: list[float]) -> None:
    answer = binary_response(output, {"ML-Model": "m@1"})
    assert (answer.headers["ml-shape"], answer.headers["ml-dtype"]) == (shape, "float32")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["ml-model"] == "m@1"
    assert list(struct.unpack(f"<{len(numbers)}f", answer.body)) == numbers


@pytest.mark.parametrize(
    "output",
    [
        None,
        1,
        "text",
        {},
        [],
        [[]],
        {"labels": [{"label": "cat", "score": 1}]},
        {"embedding": []},
        {"embedding": "AAAA"},
        {"embeddings": [[1, 2], None]},
        {"embeddings": [[1, 2], [3]]},
        {"embeddings": [[1, 2], 3]},
        [{"embedding": [1]}, None],
        [{"embedding": [1]}, {"error": 1}],
        [True, False],
        [1, "2"],
        [1, [2]],
        [10**400],
    ],
)
def test_what_is_no_array(output: Any) -> None:
    with pytest.raises(NotAcceptable):
        binary_response(output, {})
