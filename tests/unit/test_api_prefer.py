"""Prefer (RFC 7240)."""

from __future__ import annotations

import pytest

from api.prefer import Prefer, parse_prefer


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], Prefer()),
        ([""], Prefer()),
        (["respond-async"], Prefer(True)),
        (["Respond-Async"], Prefer(True)),
        (["wait=10"], Prefer(wait_s=10)),
        (["WAIT = 10"], Prefer(wait_s=10)),
        (['wait="10"'], Prefer(wait_s=10)),
        (["wait"], Prefer(wait_s=float("inf"))),
        (["wait="], Prefer(wait_s=float("inf"))),
        (["respond-async, wait=5"], Prefer(True, 5)),
        (["respond-async", "wait=5"], Prefer(True, 5)),
        (['foo; bar="a, wait=9", wait=5; x=1 , respond-async'], Prefer(True, 5)),
        (['return="a,b", wait=3'], Prefer(wait_s=3)),
        (["wait=1, wait=2"], Prefer(wait_s=1)),
        (["wait=-1"], Prefer()),
        (["wait=1.5"], Prefer()),
        (["wait=٣"], Prefer()),
        (["wait=soon, respond-async"], Prefer(True)),
        (["@@, , ;;, wait=4"], Prefer(wait_s=4)),
        (["wait=99999999999999999999"], Prefer(wait_s=999999999)),
    ],
)
def test_prefer(headers: list[str], expected: Prefer) -> None:
    assert parse_prefer(headers) == expected
