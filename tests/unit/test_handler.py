"""The small rules around a handler."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from worker.handler import Handler, with_notes


class Score(BaseModel):
    score: float
    label: str | None = None


@pytest.mark.parametrize(
    ("answer", "noted"),
    [
        ({"a": 1}, {"a": 1, "truncated": True}),
        ([{"a": 1}, {"a": 2}], [{"a": 1, "truncated": True}, {"a": 2, "truncated": True}]),
        (Score(score=0.5), {"score": 0.5, "truncated": True}),
        (0.5, 0.5),
    ],
)
def test_notes_reach_the_answer(answer: Any, noted: Any) -> None:
    assert with_notes(answer, {"truncated": True}) == noted
    assert with_notes(answer, {}) is answer


def test_the_type_arguments_make_the_contract() -> None:
    class Mine(Handler[Score, Score]):
        task = "mine"

    assert (Mine.io.name, Mine.io.item, Mine.io.output) == ("mine", Score, Score)
