"""How a job's input splits, where faults point, and how outputs join."""

from __future__ import annotations

import base64
from typing import Any

import jsonschema_rs
import pytest

from shared import tasks
from shared.errors import InvalidInput
from shared.task import Task, count
from shared.tasks import BUILT_IN, ECHO, IMAGE_CLASSIFICATION, TEXT_EMBEDDING


@pytest.mark.parametrize(
    ("value", "n", "form"),
    [
        ({"text": "a"}, 1, "one"),
        ({"texts": ["a", "b"]}, 2, "plural"),
        ([{"text": "a"}, {"text": "b"}, {"text": "c"}], 3, "list"),
    ],
)
def test_forms_of_an_input(value: Any, n: int, form: str) -> None:
    parts = tasks.split(TEXT_EMBEDDING, value)
    assert (len(parts.items), parts.form) == (n, form)
    assert tasks.check(TEXT_EMBEDDING, value, None) == n
    assert jsonschema_rs.is_valid(TEXT_EMBEDDING.input_schema(), value)


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({"txt": "a"}, "/txt"),
        ({"text": 3}, "/text"),
        ({"text": ""}, "/text"),
        ({"texts": ["a", 3]}, "/texts/1"),
        ({"texts": "a"}, "/texts"),
        ({"texts": []}, "/texts"),
        ({"text": "a", "texts": ["b"]}, "/texts"),
        ([{"text": "a"}, {"text": None}], "/1/text"),
        ([], ""),
        ("a", ""),
        (None, ""),
    ],
)
def test_faults_point_into_the_input(value: Any, pointer: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        tasks.check(TEXT_EMBEDDING, value, None)
    assert pointer in [fault.pointer for fault in caught.value.faults]
    assert not jsonschema_rs.is_valid(TEXT_EMBEDDING.input_schema(), value)


@pytest.mark.parametrize(
    ("task", "value", "n"),
    [
        (TEXT_EMBEDDING, {"text": "a"}, 1),
        (TEXT_EMBEDDING, {"texts": ["a", "b"]}, 2),
        (TEXT_EMBEDDING, [{"text": "a"}] * 3, 3),
        (TEXT_EMBEDDING, {"texts": 7}, 1),
        (TEXT_EMBEDDING, None, 1),
        (BUILT_IN["echo"], [1, 2], 1),
        (None, [1, 2], 2),
        (None, {"texts": ["a", "b"]}, 1),
    ],
)
def test_how_many_items_an_input_has_before_it_is_checked(task: Task | None, value: Any, n: int) -> None:
    assert count(task, value) == n


def test_too_many_items() -> None:
    with pytest.raises(InvalidInput) as caught:
        tasks.check(TEXT_EMBEDDING, {"texts": ["a"] * 2049}, None)
    assert "2048" in caught.value.faults[0].message


def test_parameters_and_partial() -> None:
    parameters, partial = tasks.parse_parameters(TEXT_EMBEDDING, {"dimensions": 8.0, "partial": True})
    assert (parameters.dimensions, partial) == (8, True)
    for wrong, pointer in (({"dims": 8}, "/parameters/dims"), ({"partial": "yes"}, "/parameters/partial")):
        with pytest.raises(InvalidInput) as caught:
            tasks.parse_parameters(TEXT_EMBEDDING, wrong)
        assert caught.value.faults[0].pointer == pointer
    assert tasks.check(TEXT_EMBEDDING, {"texts": ["a", 3]}, {"partial": True}) == 2


def test_images_are_bytes_or_base64() -> None:
    text = base64.b64encode(b"png").decode()
    for image in (b"png", text, f"data:image/png;base64,{text}"):
        parts = tasks.split(IMAGE_CLASSIFICATION, {"image": image})
        assert tasks.parse_item(IMAGE_CLASSIFICATION, parts, 0).image == b"png"
    with pytest.raises(InvalidInput) as caught:
        tasks.check(IMAGE_CLASSIFICATION, {"images": [text, "%%%"]}, None)
    assert caught.value.faults[0].pointer == "/images/1"


def test_joining() -> None:
    one = tasks.split(TEXT_EMBEDDING, {"text": "a"})
    assert tasks.join(TEXT_EMBEDDING, one, [{"embedding": [1]}]) == {"embedding": [1]}
    plural = tasks.split(TEXT_EMBEDDING, {"texts": ["a", "b", "c"]})
    outputs = [{"embedding": [1]}, None, {"embedding": [3], "truncated": True}]
    assert tasks.join(TEXT_EMBEDDING, plural, outputs) == {
        "embeddings": [[1], None, [3]],
        "truncated": [None, None, True],
    }
    images = tasks.split(IMAGE_CLASSIFICATION, {"images": ["", ""]})
    assert tasks.join(IMAGE_CLASSIFICATION, images, [{"labels": []}, None]) == {"items": [{"labels": []}, None]}


@pytest.mark.parametrize("value", [None, [], {"texts": []}, [1, [2]], "x", {"text": "a"}])
def test_echo_takes_any_json_whole(value: Any) -> None:
    parts = tasks.split(ECHO, value)
    assert (parts.items, parts.form) == ([value], "one")
    assert tasks.check(ECHO, value, None) == 1
