"""The arithmetic of the Watch view, by its own module in the browser."""

from __future__ import annotations

from typing import Any

import pytest

from tests.console.conftest import Console

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

BOUNDS = [10, 20, 50]


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ([0, 10, 10, 10], 0.5, 15),
        ([4, 4, 8, 8], 0.5, 10),
        ([4, 4, 8, 8], 0.75, 35),
        ([0, 0, 0, 8], 0.5, 50),
        ([0, 0, 0, 0], 0.5, None),
    ],
)
def test_percentiles_from_counts(console: Console, counts: list[int], share: float, expected: float | None) -> None:
    program = """async ([counts, bounds, share]) => {
      const { percentile } = await import("./js/history.js");
      const found = percentile(counts, bounds, share);
      return Number.isNaN(found) ? null : found;
    }"""
    console.page.goto(f"{console.url}/console/")
    assert console.page.evaluate(program, [counts, BOUNDS, share]) == expected


def event(second: int, succeeded: int, latency: list[int], *, up: bool = True, refused: int = 0) -> dict[str, Any]:
    version = {
        "model": "m",
        "version": "1",
        "queued": 1,
        "succeeded": succeeded,
        "failed": 0,
        "canceled": 0,
        "latency": latency,
    }
    return {
        "at": f"2026-01-01T00:00:{second:02}.000Z",
        "up": up,
        "bounds_ms": BOUNDS,
        "versions": [version] if up else [],
        "workers": [{"name": "w", "state": "ready", "busy": 0.5, "batch_size": None, "models": []}],
        "refusals": {"queue_full": refused},
    }


def lines(console: Console, kind: str, *events: dict[str, Any]) -> Any:
    program = """async ([kind, events]) => {
      const { History } = await import("./js/history.js");
      const history = new History();
      events.forEach((one) => history.add(one));
      return history.lines(kind);
    }"""
    console.page.goto(f"{console.url}/console/")
    return console.page.evaluate(program, [kind, list(events)])


def test_rates_are_differences_and_a_restart_counts_from_zero(console: Console) -> None:
    _, rates = lines(
        console,
        "rates",
        event(0, 100, [100, 100, 100, 100], refused=9),
        event(2, 110, [100, 110, 110, 110], refused=11),
        event(3, 4, [0, 4, 4, 4], refused=0),
    )
    assert rates["succeeded"] == [None, 5, 4]
    assert rates["refused"] == [None, 1, 0]


def test_what_comes_or_goes_with_its_past_is_no_spike(console: Console) -> None:
    """A version that is removed and comes again; another API process, which has refused less."""
    gone = event(1, 1_000_000, [9, 9, 9, 9], refused=3) | {"versions": []}
    _, rates = lines(
        console, "rates", event(0, 1_000_000, [9, 9, 9, 9], refused=50), gone, event(2, 1_000_001, [9, 9, 9, 9])
    )
    assert rates == {
        "succeeded": [None, 0, 0],
        "failed": [None, 0, 0],
        "canceled": [None, 0, 0],
        "refused": [None, 0, 0],
    }


def test_latencies_are_of_the_last_half_minute(console: Console) -> None:
    _, found = lines(
        console,
        "latency",
        event(0, 0, [0, 0, 0, 0]),
        event(1, 10, [0, 0, 10, 10]),
        event(20, 20, [0, 10, 20, 20]),
        event(40, 30, [10, 20, 30, 30]),
    )
    assert found["p50"] == [None, 35, 20, 5], "of ten; of twenty; and of those since second 20"


def test_loads_and_evictions_are_told(console: Console) -> None:
    def with_state(second: int, state: str | None) -> dict[str, Any]:
        seen = event(second, 0, [0, 0, 0, 0])
        models = [{"model": "m", "version": "1", "state": state}] if state else []
        return seen | {"workers": [seen["workers"][0] | {"models": models}]}

    program = """async (events) => {
      const { History } = await import("./js/history.js");
      const history = new History();
      events.forEach((one) => history.add(one));
      return history.changes.map(({ what, from, to }) => [what, from, to]);
    }"""
    console.page.goto(f"{console.url}/console/")
    states = ("unloaded", "loading", "loading", "ready", None)
    events = [with_state(second, state) for second, state in enumerate(states)]
    assert console.page.evaluate(program, [*events, events[0] | {"workers": []}]) == [
        ["w", "ready", ""],
        ["w m@1", "ready", ""],
        ["w m@1", "loading", "ready"],
        ["w m@1", "unloaded", "loading"],
    ]


def test_while_redis_is_away_there_is_a_gap(console: Console) -> None:
    times, queued = lines(
        console, "queued", event(0, 1, [1, 1, 1, 1]), event(1, 0, [], up=False), event(2, 2, [2, 2, 2, 2])
    )
    assert len(times) == 3
    assert queued == {"m@1": [1, None, 1]}
    _, batch = lines(console, "batch", event(0, 1, [1, 1, 1, 1]))
    assert batch == {"w": [None]}
