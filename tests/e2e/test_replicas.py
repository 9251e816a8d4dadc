"""Four workers do what four devices can: the guard of what `make bench-replicas` measures, with loads that take little
CPU, and by a ratio within one run."""

from __future__ import annotations

import pytest

from benchmarks import replicas

pytestmark = pytest.mark.long


def test_four_workers_do_three_times_what_one_does_and_more() -> None:
    rates: dict[str, list[float]] = {}
    with replicas.service() as parts:
        for count in (1, 4):
            parts.grow(apis=1, workers_to=count)
            for load in (replicas.LISTS, replicas.SLOW):
                row = replicas.run(parts, load, 8.0)
                rates.setdefault(load.name, []).append(row["items_per_s"])
    for name, (one, four) in rates.items():
        assert one > 0
        assert four / one >= 3, (name, rates)
