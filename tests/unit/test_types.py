"""The words of the product as types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import BaseModel

from shared.types import Instant


class _Told(BaseModel):
    at: Instant | None = None


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (datetime(2026, 1, 2, 3, 4, 55, tzinfo=UTC), '"2026-01-02T03:04:55.000Z"'),
        (datetime(2026, 1, 2, 3, 4, 55, 503_999, tzinfo=UTC), '"2026-01-02T03:04:55.503Z"'),
        (datetime(2026, 1, 2, 3, 4, 55, tzinfo=timezone(timedelta(hours=2))), '"2026-01-02T01:04:55.000Z"'),
        (None, "null"),
    ],
)
def test_an_instant_has_its_milliseconds(at: datetime | None, told: str) -> None:
    assert _Told(at=at).model_dump_json() == f'{{"at":{told}}}'


def test_texts_of_instants_sort_as_they_do() -> None:
    begin = datetime(2026, 1, 2, 3, 4, 54, 998_000, tzinfo=UTC)
    texts = [_Told(at=begin + timedelta(milliseconds=n)).model_dump_json() for n in range(5)]
    assert texts == sorted(texts)


def test_an_instant_is_a_date_time_in_the_schema() -> None:
    schema = _Told.model_json_schema(mode="serialization")["properties"]["at"]
    assert {"type": "string", "format": "date-time"} in schema["anyOf"]
