"""How long a worker takes for a batch of jobs: measured, or assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Service:
    """`seconds[n - 1]` for a batch of n jobs; a batch takes at most `len(seconds)`."""

    seconds: tuple[float, ...]

    @classmethod
    def of_table(cls, table: Mapping[int, float], *, items_per_job: int = 1) -> Service:
        """From seconds by items of a batch, for jobs of so many items each. Between two sizes that are known it is a
        line; a batch takes as many jobs as fit into the largest."""
        sizes = sorted(table)
        most = sizes[-1] // items_per_job
        items = np.arange(1, most + 1) * items_per_job
        return cls(tuple(np.interp(items, sizes, [table[size] for size in sizes]).tolist()))

    def time(self, jobs: int) -> float:
        """Seconds of one batch."""
        return self.seconds[jobs - 1]

    @property
    def most(self) -> int:
        """Jobs that a batch takes."""
        return len(self.seconds)

    @property
    def capacity(self) -> float:
        """Jobs a second of one worker that is never idle, its batches as large as they may be."""
        return max((number + 1) / second for number, second in enumerate(self.seconds))
