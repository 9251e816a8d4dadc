"""How many batches at a time pay: on devices that are functions, then with threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.streams import ENOUGH, ROUNDS, USUAL, SideBySide, choices, choose, usual


class World:
    """So many batches at once take as long as they are told to; only that moves the clock."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.now, self._seconds, self.ran = 5.0, seconds, list[int]()

    def measure(self, count: int) -> float:
        self.ran.append(count)
        self.now += self._seconds(count)
        return self._seconds(count)

    def choose(self, counts: list[int], limit_s: float = 1e9, usual: int = 0) -> tuple[int, dict[int, float]]:
        return choose(counts, self.measure, usual=usual, clock=lambda: self.now, limit_s=limit_s)


@pytest.mark.parametrize(
    ("threads", "some", "otherwise"), [(1, [1], 1), (2, [1, 2], 2), (6, [1, 2, 4], 2), (16, [1, 2, 4, 8, 16], 4)]
)
def test_what_there_is_to_choose_from(threads: int, some: list[int], otherwise: int) -> None:
    assert choices(threads) == some
    assert usual(threads) == otherwise


def test_the_fewest_that_are_about_as_fast_as_the_fastest() -> None:
    best, found = World(lambda count: {1: 1.0, 2: 1.6, 4: 3.15, 8: 8.0}[count]).choose([1, 2, 4, 8])
    assert best == 2, "4 give 1.6 % more than 2"
    assert found == pytest.approx({1: 1.0, 2: 1.25, 4: 1.27, 8: 1.0}, abs=0.01)


def test_the_usual_number_is_kept_unless_it_is_clearly_slower() -> None:
    for seconds, expected in ((2.1, 2), (2.3, 1)):
        world = World(lambda count, seconds=seconds: {1: 1.0, 2: seconds}[count])  # type: ignore[misc]
        assert world.choose([1, 2], usual=2)[0] == expected


def test_a_slow_one_is_tried_once_and_all_are_tried() -> None:
    world = World(lambda count: 1.0 if count < 4 else 100.0)
    assert world.choose([1, 2, 4], limit_s=3.0)[0] == 2
    assert world.ran == [1, 2, 4]
    assert World(lambda _: 1.0).choose([1], limit_s=0.0) == (1, {1: 1.0})


@given(
    st.dictionaries(st.sampled_from([1, 2, 4, 8]), st.floats(0.01, 9), min_size=1), st.floats(0, 50), st.integers(1, 8)
)
def test_what_is_found_is_enough_and_the_time_is_kept(seconds: dict[int, float], limit_s: float, usual: int) -> None:
    counts = sorted(seconds)
    world = World(lambda count: seconds[count])
    best, found = world.choose(counts, limit_s, usual)
    assert found[best] >= (USUAL if best == usual else ENOUGH) * max(found.values())
    if best != usual:
        assert all(found[count] < ENOUGH * max(found.values()) for count in counts if count < best)
    assert world.now - 5.0 <= max(limit_s, sum(seconds.values())) + 1e-6
    assert all(1 <= world.ran.count(count) <= ROUNDS for count in counts)


def test_side_by_side_is_at_once_each_with_its_part() -> None:
    together, parts = threading.Barrier(3), list[int]()
    assert SideBySide(parts.append).seconds(3, lambda: together.wait(10)) > 0
    assert parts == [3, 3, 3]
    here = list[threading.Thread]()
    SideBySide(parts.append).seconds(1, lambda: here.append(threading.current_thread()))
    assert here == [threading.current_thread()], "one alone needs no other thread"
    assert parts == [3, 3, 3]


def test_what_fails_side_by_side_is_told() -> None:
    def fail() -> None:
        raise MemoryError("no more")

    for count in (1, 2):
        with pytest.raises(MemoryError, match="no more"):
            SideBySide(lambda _: None).seconds(count, fail)
