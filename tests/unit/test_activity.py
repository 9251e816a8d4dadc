"""What a worker says of its last seconds, by a clock in hand."""

from __future__ import annotations

from worker.activity import WINDOW_S, Activity


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_shares_and_rates_are_of_the_window_alone() -> None:
    clock = Clock()
    activity = Activity(clock)
    clock.now += 2
    activity.ran(1.0, 8)
    activity.ran(0.5, 4)
    for _ in range(6):
        activity.ended()
    assert activity.told(None) == {"busy": 0.75, "jobs_per_s": 3.0, "batch_size": 6.0}
    clock.now += WINDOW_S
    assert activity.told(None) == {"busy": 0.0, "jobs_per_s": 0.0, "batch_size": None}


def test_a_batch_that_runs_still_counts_and_is_not_counted_twice() -> None:
    clock = Clock()
    activity = Activity(clock)
    began = clock.now
    clock.now += WINDOW_S
    assert activity.told(began)["busy"] == 1.0
    clock.now += WINDOW_S
    assert activity.told(began)["busy"] == 1.0, "longer than the window"
    activity.ran(2 * WINDOW_S, 1)
    clock.now += WINDOW_S
    assert activity.told(None)["busy"] == 0.0
