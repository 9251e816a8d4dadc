"""The arithmetic of the failover's figures."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.failover import longest_gap, report


@pytest.mark.parametrize(
    ("times", "gap"),
    [
        ([1.0, 2.0, 9.0, 10.5, 11.0], 1.5),  # what was before the blow is no outage
        ([9.9, 13.0, 13.1], 3.0),  # counted from the blow
        ([13.0, 10.1, 13.1], 2.9),  # in whatever order the callers told them
    ],
)
def test_the_longest_gap_after_the_blow(times: list[float], gap: float) -> None:
    assert longest_gap(times, 9.0 if times[0] == 1.0 else 10.0) == pytest.approx(gap)


def test_the_report_sums_what_was_lost_and_tells_the_worst() -> None:
    run: dict[str, Any] = {
        "blow": "kill",
        "setting": "replica",
        **{"agreed_s": 2.0, "accepted_s": 2.5, "ended_s": 3.0},
        **{"accepted": 1000, "lost": 2, "forgotten": 1, "run_again": 0, "refused": 7},
    }
    *_, row = report([run, run | {"accepted_s": 4.5, "lost": 3}]).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:3] == ["`replica`", "2"]
    assert cells[4:] == ["3.50 (worst 4.50)", "3.00 (worst 3.00)", "2,000", "**5**", "2", "0", "14"]
