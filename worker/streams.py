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
ROUNDS = 3
UNTRIED = 4  # cores of a stream, where nothing is tried


def choices(threads: int) -> list[int]:
    """1, 2, 4 ... streams, up to one for each of `threads`."""
    return [1 << step for step in range(threads.bit_length())] if threads > 0 else [1]


def untried(threads: int) -> int:
    """Two on a small CPU, and one for each UNTRIED threads of a large one."""
    return max(min(2, threads), threads // UNTRIED)


def fewest(
    counts: Sequence[int], measure: Callable[[int], float], *, clock: Callable[[], float], limit_s: float
) -> dict[int, float]:
    """What each of `counts` (which rise) gives a second, at its best, the fewest that are about as fast as the fastest
    first. `measure`: the seconds of that many batches at once. All run once; again, as long as `limit_s` lasts."""
    begun, best_s = clock(), dict.fromkeys(counts, float("inf"))
    for number in range(ROUNDS):
        for count in counts:
            if number and clock() - begun + best_s[count] > limit_s:
                continue
            best_s[count] = min(best_s[count], measure(count))
    rates = {count: count / max(seconds, 1e-9) for count, seconds in best_s.items()}
    most = max(rates.values())
    return dict(sorted(rates.items(), key=lambda item: (item[1] < ENOUGH * most, item[0])))


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
