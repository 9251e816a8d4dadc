"""The arithmetic of the figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

FOREIGN_LIMIT = 0.12  # cores of other work on the machine; a measure with more is disturbed


def percentile(values: Sequence[float], share: float) -> float:
    """The value at `share` (0 to 1) of the sorted values, linear between neighbours (as numpy's default)."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    """The middle, or the mean of the two in the middle."""
    return percentile(values, 0.5)


def mean_batch(sizes: Sequence[int]) -> float:
    """Mean size of the batches, where each sentence names the size of the batch it was in: a batch of n is named n
    times, so the plain mean would count large ones n times."""
    return len(sizes) / sum(1 / size for size in sizes)
