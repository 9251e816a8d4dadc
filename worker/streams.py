"""Streams: several batches at a time on one CPU, each on its part of the cores.

The threads of one forward wait for each other after every operation, so each millisecond that other work takes from one
core stops them all; forwards of fewer threads each do not wait for one another (OpenVINO's throughput streams are the
same idea: https://docs.openvino.ai, "Performance Hints and Threading"). How many pay differs by model and machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

ENOUGH = 0.97  # of the best throughput: fewer streams answer sooner
USUAL = 0.9  # of the best: what a trial must show against the usual number
ROUNDS = 3
_CORES = 4  # of a stream, usually


def choices(threads: int) -> list[int]:
    """1, 2, 4 ... streams, up to one for each of `threads`."""
    return [1 << step for step in range(threads.bit_length())] if threads > 0 else [1]


def usual(threads: int) -> int:
    """Two on a small CPU, and one for every four threads of a large one."""
    return max(min(2, threads), threads // _CORES)


def choose(
    counts: Sequence[int], measure: Callable[[int], float], *, usual: int, clock: Callable[[], float], limit_s: float
) -> tuple[int, dict[int, float]]:
    """How many of `counts` (which rise) it should be, and what each gives a second, at its best. `measure`: the seconds
    of that many batches at once. All run once; again, as long as `limit_s` lasts.

    A trial has the CPU to itself, and a worker has not: what is lost by waiting for each other shows only in service.
    So it is the usual number, unless that is clearly slower; else the fewest that are about as fast as the fastest."""
    begun, best_s = clock(), dict.fromkeys(counts, float("inf"))
    for number in range(ROUNDS):
        for count in counts:
            if number and clock() - begun + best_s[count] > limit_s:
                continue
            best_s[count] = min(best_s[count], measure(count))
    rates = {count: count / max(seconds, 1e-9) for count, seconds in best_s.items()}
    most = max(rates.values())
    if rates.get(usual, 0.0) >= USUAL * most:
        return usual, rates
    return min(count for count in counts if rates[count] >= ENOUGH * most), rates


class SideBySide:
    """Runs one thing several times at once. `part` gives its very thread one of so many parts of the CPU."""

    def __init__(self, part: Callable[[int], object], clock: Callable[[], float] = time.perf_counter) -> None:
        self._part, self._clock = part, clock

    def seconds(self, count: int, work: Callable[[], object]) -> float:
        """Until all have ended; one alone runs in this thread. Raises what `work` raises."""
        if count == 1:
            begun = self._clock()
            work()
            return self._clock() - begun

        def one() -> None:
            self._part(count)
            work()

        with ThreadPoolExecutor(count, "stream") as threads:
            begun = self._clock()
            for run in [threads.submit(one) for _ in range(count)]:
                run.result()
            return self._clock() - begun
