"""`max_cost: auto`: how many batches at a time, and how large each, suit this model on this device, found by a short
trial at load.

Throughput rises with a batch until the device is full, and may fall again: on a CPU a larger one leaves the cache. A
trial has the device to itself, and a worker has not: what each batch costs beside its forward shows only in service
(docs/benchmarks.md), and the smaller the batches, the more. So it is the largest up to the usual budget that is not
clearly slower; where none is, the smallest that is about as fast as the fastest, for it is done sooner.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from worker.handler import Handler, Prepared
from worker.predict import is_out_of_memory
from worker.streams import SideBySide, choose
from worker.warm import prepared_chunks

Ended = Literal["top", "slower", "memory", "time"]

ENOUGH = 0.97  # of the best throughput
USUAL = 0.8  # of the best: what less than that is clearly slower; quiet moments favour what is short
FALLS = 0.9  # of the best so far: less than this, twice, and larger batches are not tried
RIVALS = 0.7  # of the best: what is less is not tried again; a single run may be off by so much
ROUNDS, LONG_S = 5, 0.7  # so often each budget that may be the best runs again, and no shorter: processes that start
# beside this one take a core for some tenths of a second
SHORT_S, TRIES = 0.1, 3  # what takes less is tried so often at once: one such run may be off by half
TYPICAL_COST = 256  # of the item that batches are made of, at most: long texts are rare


@dataclass(slots=True, frozen=True)
class Calibration:
    """`budget` is the `max_cost` to use; `rates` tells cost a second of each that was tried, at its best; `ended` why
    none larger was: the ladder's top, slower ones, the memory, or the time. `streams`: how many batches at a time;
    `stream_rates` as `rates`, of small batches, where there was a choice."""

    budget: int
    rates: dict[int, float]
    ended: Ended
    seconds: float
    streams: int = 1
    stream_rates: dict[int, float] = field(default_factory=dict)

    def card(self) -> dict[str, Any]:
        """JSON data."""
        found = {"max_cost": self.budget, "cost_per_s": _told(self.rates), "ended": self.ended}
        if self.stream_rates:
            found |= {"streams": self.streams, "cost_per_s_by_streams": _told(self.stream_rates)}
        return found | {"seconds": round(self.seconds, 3)}


def _told(rates: dict[int, float]) -> dict[str, float]:
    return {str(tried): round(rate, 1) for tried, rate in sorted(rates.items())}


def search(
    rungs: Sequence[int],
    measure: Callable[[int], float | None],
    *,
    clock: Callable[[], float],
    limit_s: float,
    usual: int,
    streams: int = 1,
) -> Calibration:
    """One of `rungs` (budgets that rise) whose throughput is about the best: the largest up to `usual`; above it, the
    smallest. Pure, but for `measure`: the seconds of `streams` batches of that cost at once, None where the memory does
    not hold them. The first rung runs in any case, no other that would not end within `limit_s` of `clock`. `usual` is
    also what is used, where it is larger, if the time ended while throughput still rose. Raises what `measure`
    raises."""
    begun = clock()
    best_s: dict[int, float] = {}
    likely = max((rung for rung in rungs if rung <= usual), default=0)

    def rate(rung: int) -> float:
        return streams * rung / max(best_s[rung], 1e-9)

    def most() -> float:
        return max(map(rate, best_s))

    def has_time(rung: int) -> bool:
        return clock() - begun + streams * rung / most() <= limit_s

    def run(rung: int) -> bool:
        seconds = measure(rung)
        if seconds is not None:
            best_s[rung] = min(seconds, best_s.get(rung, seconds))
        return seconds is not None

    def try_out(rung: int) -> bool:
        ends_at = clock() + SHORT_S
        runs = [run(rung)]
        while runs[-1] and len(runs) < TRIES and clock() < ends_at and has_time(rung):
            runs.append(run(rung))
        return runs[0]

    def climb() -> Ended:
        for rung in (rung for rung in rungs if rung not in best_s):
            if best_s and not has_time(rung):
                return "time"
            if not try_out(rung):
                return "memory"
            # Once more: what runs for the first time, or beside somebody else's work, is slow for a moment.
            if rate(rung) < FALLS * most() and (not has_time(rung) or (run(rung) and rate(rung) < FALLS * most())):
                return "slower"
        return "top"

    def again() -> None:
        ends_at, rounds = clock() + LONG_S, 1
        while best_s and (rounds < ROUNDS or clock() < ends_at):
            rounds += 1
            # What ended the climb may have had bad luck, and so may what it will be unless it is clearly slower.
            spared = {likely, max(best_s)}
            rivals = [rung for rung in best_s if rung in spared or rate(rung) >= RIVALS * most()]
            rivals.sort(key=lambda rung: rung != likely)
            able = [rung for rung in rivals if has_time(rung)]
            if len(rivals) < 2 or not able:
                break
            for rung in able:
                if has_time(rung):
                    run(rung)

    ended = climb()
    again()
    if ended == "slower" and rate(max(best_s)) >= FALLS * most():
        ended = climb()
        again()
    fair = [rung for rung in best_s if rung <= usual and rate(rung) >= USUAL * most()]
    good = [rung for rung in best_s if rate(rung) >= ENOUGH * most()]
    budget = max(fair) if fair else min(good, default=usual)
    if ended == "time" and budget == max(best_s):
        budget = max(budget, usual)
    return Calibration(budget, {rung: rate(rung) for rung in best_s}, ended, clock() - begun, streams)


def ladder(cost: int, *, max_size: int, most_cost: int) -> list[int]:
    """Budgets for 1, 2, 4 ... items of that cost, up to `max_size` of them and to `most_cost`."""
    most = min(max_size, most_cost // cost)
    counts = [1 << step for step in range(most.bit_length())] if most > 0 else []
    return [count * cost for count in (*counts, *([most] if counts and counts[-1] < most else []))]


def calibrate(
    handler: Handler[Any, Any],
    items: Sequence[Any],
    *,
    max_size: int,
    most_cost: int,
    usual: int,
    limit_s: float,
    streams: Sequence[int] = (1,),
    usual_streams: int = 1,
    part: Callable[[int], object] = lambda _: None,
    settle: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Calibration | None:
    """Run batches of one of `items` (as `handler.io.item`; warm already) through `predict`, and let the handler use
    what is found. First so many of `streams` at once (`usual_streams` is choose's `usual`, `part` SideBySide's), then
    of larger cost (`usual` is search's). `settle` waits for the device. None, and nothing is changed, where there is
    nothing to choose. Raises what `predict` raises."""
    chunks = prepared_chunks(handler, items)
    if not chunks:
        return None
    chunk = _typical(chunks)
    cost = max(1, chunk.cost)
    rungs = ladder(cost, max_size=max_size, most_cost=most_cost)
    if cost > 1:
        rungs = rungs[1:]  # callers' items differ in cost: a budget of one large one would seldom be full
    if len(rungs) < 2:
        return None

    beside, begun = SideBySide(part, clock), clock()

    def measure(budget: int, at_once: int) -> float | None:
        def batch() -> None:
            handler.predict([chunk.item] * (budget // cost))
            settle()

        handler.use_budget(budget)
        try:
            return beside.seconds(at_once, batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def small(at_once: int) -> float:
        seconds = measure(rungs[0], at_once)
        return math.inf if seconds is None else seconds

    count, tried = 1, dict[int, float]()
    if len(streams) > 1:
        count, tried = choose(streams, small, usual=usual_streams, clock=clock, limit_s=limit_s / 2)
    found = search(
        rungs,
        lambda budget: measure(budget, count),
        clock=clock,
        limit_s=limit_s - (clock() - begun),
        usual=usual,
        streams=count,
    )
    handler.use_budget(found.budget)
    stream_rates = {at_once: rungs[0] * rate for at_once, rate in tried.items()}
    return replace(found, seconds=clock() - begun, stream_rates=stream_rates)


def _typical(chunks: Sequence[Prepared]) -> Prepared:
    """The costliest that is not above TYPICAL_COST; the cheapest where all are."""
    usual = [chunk for chunk in chunks if chunk.cost <= TYPICAL_COST]
    return max(usual, key=lambda chunk: chunk.cost) if usual else min(chunks, key=lambda chunk: chunk.cost)
