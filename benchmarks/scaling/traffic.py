"""A bursty day: when jobs come. Seeded, so the same day for every rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DAY_S = 86_400
_WARM_UP_S = 60.0  # a burst rises over so long: callers do not all come in one second


@dataclass(frozen=True, slots=True)
class Day:
    """`rate`: jobs a second on average, bursts and piles left out. Of the least hour of the night comes `night` of what
    comes in the best hour of the day. `bursts` times a day the rate is `burst_rise` times what it is, for `burst_s` on
    average (exponential); `piles` times somebody sends `pile` jobs at once."""

    rate: float
    night: float = 0.08
    bursts: float = 14.0
    burst_rise: tuple[float, float] = (1.8, 4.0)
    burst_s: float = 420.0
    piles: float = 4.0
    pile: int = 0


def rates(day: Day, seed: int) -> np.ndarray:
    """Jobs a second, for each second of the day: what the Poisson process is drawn with."""
    draw = np.random.default_rng((seed, 1))
    at = np.arange(DAY_S, dtype=np.float64)
    # Least at four in the morning, most at four in the afternoon.
    wave = 0.5 - 0.5 * np.cos(2 * np.pi * (at - 4 * 3600) / DAY_S)
    shape = day.night + (1 - day.night) * wave
    rate = day.rate * shape / shape.mean()
    for _ in range(draw.poisson(day.bursts)):
        start, length, rise = draw.uniform(0, DAY_S), draw.exponential(day.burst_s), draw.uniform(*day.burst_rise)
        within = np.clip((at - start) / _WARM_UP_S, 0, 1) * (at < start + length)
        rate *= 1 + (rise - 1) * within
    return rate


def arrivals(day: Day, seed: int) -> np.ndarray:
    """Seconds from midnight, sorted: a Poisson process with `rates`, and the piles."""
    draw = np.random.default_rng((seed, 2))
    counts = draw.poisson(rates(day, seed))
    moments = np.repeat(np.arange(DAY_S, dtype=np.float64), counts) + draw.uniform(0, 1, int(counts.sum()))
    heaps = [np.full(day.pile, draw.uniform(0, DAY_S)) for _ in range(draw.poisson(day.piles))] if day.pile else []
    return np.sort(np.concatenate([moments, *heaps]))
