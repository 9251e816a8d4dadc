"""Which waiting units make the next batch. Pure: no Redis, no Celery, no torch; the clock is handed in.

Capacity first, then batch (as text-embeddings-inference does): nobody pushes batches, the device thread takes one
when the device is free, so a lone unit runs at once and a batch grows for nothing while the device is busy.

A unit waits by (priority, turn, arrival). Where several owners wait they take turns by start-time fair queuing (Goyal,
Vin, Cheng 1996, https://doi.org/10.1145/248156.248171): a unit's turn is what its owner was served before it, in cost
divided by weight, so a job of 2,048 items does not hold up another key's lone one. Of one owner it is the arrival. The
head decides the lane (one model version, one group, one solo job); the batch
is filled from that lane in the same order, up to `max_size` units and `max_cost`. Padding models cost
len(batch) x max(cost): for them the head's neighbours in length are taken.

Where several batches of the lane may run at a time, each takes its part of what is here, so that they are alike and end
together: the cost of what waits in the lane and of what runs beside, divided by their number (guided self-scheduling,
Polychronopoulos, Kuck 1987, https://doi.org/10.1109/TC.1987.5009495). The head is taken in any case.

An urgent unit (more so than normal) meets at most one batch with units that are not: the one that runs when it comes,
or its own, which is filled up with those only if it met none before, and if none of them run beside it. So a flood
moves its wait by less than one batch; and of two batches in a row with room for the flood, which nothing of it runs
beside, one has some of it.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from shared.keys import NORMAL


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of a batch. `max_wait_s`: how long an idle device waits for company."""

    max_size: int
    max_cost: int
    max_wait_s: float = 0.0
    padded: bool = False


class Waiting(Protocol):
    """What the batcher must know of a unit."""

    @property
    def lane(self) -> Hashable:
        """Only units of one lane share a batch."""

    @property
    def budget(self) -> Budget:
        """The same for all of a lane."""

    @property
    def priority(self) -> int:
        """0 is the most urgent."""

    @property
    def cost(self) -> int:
        """What it weighs, at least 1."""

    @property
    def owner(self) -> str:
        """Who takes turns with others."""

    @property
    def weight(self) -> int:
        """Its owner's share beside others', at least 1."""


U = TypeVar("U", bound=Waiting)
_Entry = tuple[int, float, int, float]  # priority, turn, arrival number, arrival time: the order of waiting

_BEFORE = 2**62  # arrival numbers before all others
_WINDOW = 8  # times max_size: how far a padding lane looks for units of like length


class Batcher(Generic[U]):
    """Not thread-safe: the runner guards it with its condition."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._numbers = itertools.count()
        self._lanes: dict[Hashable, list[tuple[_Entry, U]]] = {}  # each sorted by entry
        self._turn = 0.0  # of what was taken last
        self._served: dict[str, float] = {}  # by owner: the turn of its next unit
        self._shared = False  # the batch that was taken last has units that are not urgent
        self._since = 0  # the arrival number when the last such batch had ended: who came before has met one

    def __len__(self) -> int:
        """How many units wait."""
        return sum(map(len, self._lanes.values()))

    def put(self, units: Iterable[U]) -> None:
        """They wait from now on."""
        now = self._clock()
        for unit in units:
            turn = max(self._turn, self._served.get(unit.owner, 0.0))
            self._served[unit.owner] = turn + unit.cost / unit.weight
            self._insert((unit.priority, turn, next(self._numbers), now), unit)

    def put_back(self, units: Iterable[U]) -> None:
        """They were taken, and could not run: they are before all others of their priority, and cost no turn again."""
        now = self._clock()
        for unit in units:
            self._insert((unit.priority, 0.0, next(self._numbers) - _BEFORE, now), unit)

    def _insert(self, entry: _Entry, unit: U) -> None:
        bisect.insort(self._lanes.setdefault(unit.lane, []), (entry, unit), key=lambda waiting: waiting[0])

    def take(
        self,
        may_run: Callable[[U], bool] = lambda _: True,
        *,
        parts: Callable[[U], int] = lambda _: 1,
        beside: int = 0,
        shared: bool = False,
    ) -> list[U]:
        """The next batch; empty when nothing waits, when a lane still waits for company (see `ready_in`), or when its
        first may not run now. Those before have ended, or run beside it, at the cost of `beside` all together;
        `shared`: and have units that are not urgent.
        `parts`: into how many batches what is here is divided when this unit is the first."""
        lane = self._first()
        if lane is None or not may_run(self._lanes[lane][0][1]):
            return []
        if self._shared:
            self._shared, self._since = False, next(self._numbers)
        waiting = self._lanes[lane]
        chosen = self._choose(waiting, _part(waiting, parts(waiting[0][1]), beside), shared=shared)
        if len(chosen) == len(waiting):
            del self._lanes[lane]
        else:
            taken = set(chosen)
            self._lanes[lane] = [item for index, item in enumerate(waiting) if index not in taken]
        self._turn = max(self._turn, waiting[chosen[0]][0][1])
        if not self._lanes:  # nobody competes: nobody owes
            self._turn = 0.0
            self._served.clear()
        return [waiting[index][1] for index in chosen]

    def _choose(self, waiting: list[tuple[_Entry, U]], part: int, *, shared: bool) -> list[int]:
        """Places of the next batch in `waiting`, the head's among them."""
        budget = waiting[0][1].budget
        choose = _run_of_like_cost if budget.padded else _first_that_fit
        urgent = _urgent(waiting)
        chosen = choose(waiting[:urgent] if urgent and (shared or self._met()) else waiting, budget, part)
        self._shared = any(place >= urgent for place in chosen)
        return chosen

    def _met(self) -> bool:
        """Whether an urgent unit waits that has waited for others' batch already."""
        urgent = (entry for waiting in self._lanes.values() for entry, _ in waiting[: _urgent(waiting)])
        return any(number < self._since for _, _, number, _ in urgent)

    def ready_in(self) -> float | None:
        """Seconds until `take` gives a batch; 0 at once, None when nothing waits."""
        return max(0.0, min(map(self._ready_in, self._lanes))) if self._lanes else None

    def head(self) -> U | None:
        """The first of the next batch; None while there is none to take."""
        lane = self._first()
        return None if lane is None else self._lanes[lane][0][1]

    def _first(self) -> Hashable | None:
        ready = [lane for lane in self._lanes if self._ready_in(lane) <= 0]
        return min(ready, key=lambda name: self._lanes[name][0][0], default=None)

    def discard(self, unwanted: Callable[[U], bool]) -> list[U]:
        """Take out what is unwanted; what was taken out."""
        gone = []
        for lane, waiting in list(self._lanes.items()):
            gone += [unit for _, unit in waiting if unwanted(unit)]
            kept = [item for item in waiting if not unwanted(item[1])]
            if kept:
                self._lanes[lane] = kept
            else:
                del self._lanes[lane]
        return gone

    def _ready_in(self, lane: Hashable) -> float:
        waiting = self._lanes[lane]
        budget = waiting[0][1].budget
        if budget.max_wait_s <= 0 or len(waiting) >= budget.max_size:
            return 0.0
        oldest = min(arrival for (*_, arrival), _ in waiting)
        if sum(unit.cost for _, unit in waiting) >= budget.max_cost:
            return 0.0
        return oldest + budget.max_wait_s - self._clock()


def is_urgent(unit: Waiting) -> bool:
    """More so than normal."""
    return unit.priority < NORMAL


def _urgent(waiting: list[tuple[_Entry, U]]) -> int:
    """How many are, from the head on."""
    return bisect.bisect_left(waiting, True, key=lambda item: not is_urgent(item[1]))


def _part(waiting: list[tuple[_Entry, U]], parts: int, beside: int) -> int:
    """What a batch that is one of so many is to cost: its part of what waits and what runs beside it."""
    budget = waiting[0][1].budget
    if parts == 1:
        return budget.max_cost
    total, most = beside, parts * budget.max_cost
    for _, unit in waiting:
        if total >= most:  # thousands may wait: more of them change nothing
            break
        total += unit.cost
    return min(budget.max_cost, math.ceil(total / parts))


def _first_that_fit(waiting: list[tuple[_Entry, U]], budget: Budget, part: int) -> list[int]:
    """From the head on, in order, as near to the part as it gets within the budget. A unit over the budget runs alone;
    a batch never passes over a unit, so a large one is not overtaken for ever."""
    total = 0
    chosen: list[int] = []
    for index, (_, unit) in enumerate(waiting[: budget.max_size]):
        with_it = total + unit.cost
        if chosen and (with_it > budget.max_cost or with_it - part > part - total):
            break
        total = with_it
        chosen.append(index)
    return chosen


def _run_of_like_cost(waiting: list[tuple[_Entry, U]], budget: Budget, part: int) -> list[int]:
    """The longest run, in order of cost, that holds the head and fits the part when all are padded to the longest."""
    window = waiting[: budget.max_size * _WINDOW]
    order = sorted(range(len(window)), key=lambda index: window[index][1].cost)
    head = order.index(0)
    best = (head, head + 1)
    start = 0
    for end in range(head + 1, len(order) + 1):
        longest = window[order[end - 1]][1].cost
        while start < head and (end - start > budget.max_size or (end - start) * longest > part):
            start += 1
        if end - start > budget.max_size or (end - start) * longest > part:
            break
        if end - start > best[1] - best[0]:
            best = (start, end)
    return order[best[0] : best[1]]
