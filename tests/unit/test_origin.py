"""Where the work in hand comes from, in tasks and threads, and what of it travels with a job."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from shared import origin
from shared.origin import Carried, Origin
from shared.trace_context import TraceContext

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_each_task_has_its_own() -> None:
    async def request(number: int) -> dict[str, str]:
        origin.begin(Origin(f"r{number}"))
        await asyncio.sleep(0)
        origin.about(f"j{number}")
        await asyncio.sleep(0)
        return origin.current().names()

    assert await asyncio.gather(*map(request, range(3))) == [
        {"request_id": f"r{number}", "job_id": f"j{number}"} for number in range(3)
    ]
    assert origin.current().names() == {}


def test_outside_of_a_request_there_is_none() -> None:
    """Not even one that later work would find."""
    seen: list[dict[str, str]] = []

    def work() -> None:
        origin.about("j")
        seen.append(origin.current().names())
        origin.begin(Origin("r"))
        seen.append(origin.current().names())

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [{}, {"request_id": "r"}] * 2


@pytest.mark.parametrize(
    "carried",
    [Carried(), Carried("r"), Carried("r", TraceContext(PARENT)), Carried("", TraceContext(PARENT, "a=1,b=2"))],
)
def test_it_travels_in_headers_and_record(carried: Carried) -> None:
    assert Carried.of(carried.headers()) == carried
    assert Carried.of({"ml_request_id": carried.request_id, **carried.fields()}) == carried
    assert ("request_id" in carried.fields()) == bool(carried.request_id)


@pytest.mark.parametrize("given", ["", "two words", "a\nb", "é", "x" * 129, 7, None, ["r"], {"r": 1}])
def test_what_is_no_request_id_is_left_out(given: Any) -> None:
    """A plain producer may write anything there."""
    assert Carried.of({"ml_request_id": given, "traceparent": given}) == Carried()


def test_the_longest_request_id() -> None:
    assert origin.as_request_id("~" * 128) == "~" * 128


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"id": "j", "ml_request_id": "r"}, {"job_id": "j", "request_id": "r"}),
        ({"id": "j" * 129}, {"job_id": "j" * 128}),
        ({"id": 7, "ml_request_id": "two words"}, {"job_id": "tag"}),
        ({}, {"job_id": "tag"}),
        ("nonsense", {"job_id": "tag"}),
        (None, {"job_id": "tag"}),
    ],
)
def test_a_message_of_which_nothing_is_sure(headers: Any, told: dict[str, str]) -> None:
    assert origin.of_message(headers, "tag").names() == told
