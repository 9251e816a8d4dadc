"""The batcher with an injected clock: every rule once by hand, and all of them under Hypothesis."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.batcher import Batcher, Budget, is_urgent


@dataclass(eq=False)
class Unit:
    cost: int = 1
    priority: int = 3
    lane: str = "a"
    budget: Budget = field(default_factory=lambda: Budget(4, 100))
    owner: str = ""
    weight: int = 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_lone_unit_runs_at_once() -> None:
    batcher = Batcher[Unit](Clock())
    unit = Unit()
    batcher.put([unit])
    assert batcher.ready_in() == 0
    assert batcher.take() == [unit]
    assert batcher.take() == []
    assert batcher.ready_in() is None


def test_a_batch_is_cut_by_size_and_the_rest_waits() -> None:
    batcher = Batcher[Unit](Clock())
    units = [Unit() for _ in range(6)]
    batcher.put(units)
    assert batcher.take() == units[:4]
    assert batcher.take() == units[4:]


def test_a_batch_is_cut_by_cost_and_an_oversized_unit_runs_alone() -> None:
    batcher = Batcher[Unit](Clock())
    units = [Unit(60), Unit(30), Unit(20), Unit(500), Unit(1)]
    batcher.put(units)
    assert batcher.take() == units[:2]
    assert batcher.take() == units[2:3]
    assert batcher.take() == units[3:4]
    assert batcher.take() == units[4:]


def test_priority_goes_before_age() -> None:
    batcher = Batcher[Unit](Clock())
    low, normal, high = Unit(priority=6), Unit(priority=3), Unit(priority=0)
    batcher.put([low])
    batcher.put([normal, high])
    assert batcher.take() == [high, normal, low]


def test_an_urgent_unit_meets_at_most_one_batch_of_less_urgent_ones() -> None:
    batcher = Batcher[Unit](Clock())
    flood = [Unit(priority=6) for _ in range(20)]
    batcher.put(flood)
    assert batcher.take() == flood[:4]
    first, second = Unit(priority=0), Unit(priority=0)
    batcher.put([first, second])
    assert batcher.take() == [first, second], "they have waited for a batch of the flood: their own is theirs alone"
    third = Unit(priority=0)
    batcher.put([third])
    assert batcher.take() == [third, *flood[4:7]], "it has not, and the flood is to go on"
    fourth = Unit(priority=0)
    batcher.put([fourth, Unit(priority=3)])
    assert batcher.take() == [fourth], "nor are normal ones with it"
    assert len(batcher.take()) == 4


def test_an_urgent_batch_is_not_filled_up_while_the_flood_runs_beside_it() -> None:
    batcher = Batcher[Unit](Clock())
    urgent, flood = Unit(priority=0), [Unit(priority=6) for _ in range(3)]
    batcher.put([*flood, urgent])
    assert batcher.take(beside=4, shared=True) == [urgent]
    batcher.put([urgent])
    assert batcher.take(beside=4) == [urgent, *flood]


def test_normal_units_are_accompanied_by_low_ones() -> None:
    batcher = Batcher[Unit](Clock())
    flood = [Unit(priority=6) for _ in range(20)]
    batcher.put(flood)
    assert batcher.take() == flood[:4]
    normal = Unit()
    batcher.put([normal])
    assert batcher.take() == [normal, *flood[4:7]]


def test_the_head_decides_the_lane() -> None:
    batcher = Batcher[Unit](Clock())
    first, second, third = Unit(lane="a"), Unit(lane="b"), Unit(lane="a")
    batcher.put([first, second, third])
    assert batcher.take() == [first, third]
    assert batcher.take() == [second]


def test_max_wait_holds_a_part_batch_until_its_oldest_has_waited() -> None:
    clock = Clock()
    batcher = Batcher[Unit](clock)
    budget = Budget(2, 100, max_wait_s=0.5)
    first = Unit(budget=budget)
    batcher.put([first])
    assert batcher.take() == []
    assert batcher.ready_in() == 0.5
    clock.now = 0.4
    assert batcher.take() == []
    second = Unit(budget=budget)
    batcher.put([second])
    assert batcher.take() == [first, second], "full: no reason to wait"
    batcher.put([first])
    clock.now = 1.0
    assert batcher.take() == [first]


def test_a_lane_that_waits_does_not_hold_up_another() -> None:
    batcher = Batcher[Unit](Clock())
    patient = Unit(priority=0, lane="a", budget=Budget(2, 100, max_wait_s=9))
    eager = Unit(lane="b")
    batcher.put([patient, eager])
    assert batcher.take() == [eager]


def test_padding_lanes_take_the_heads_neighbours_in_length() -> None:
    batcher = Batcher[Unit](Clock())
    budget = Budget(3, 60, padded=True)
    costs = [20, 100, 19, 3, 18, 2]
    units = [Unit(cost, budget=budget) for cost in costs]
    batcher.put(units)
    assert sorted(unit.cost for unit in batcher.take()) == [18, 19, 20], "3 x 20 fits in 60"
    assert [unit.cost for unit in batcher.take()] == [100], "the next head runs alone: over the budget"
    assert sorted(unit.cost for unit in batcher.take()) == [2, 3]


def halves(batcher: Batcher[Unit], beside: int = 0) -> list[Unit]:
    """What is taken where two batches may run at a time."""
    return batcher.take(parts=lambda head: 2, beside=beside)


def test_a_batch_takes_its_part_of_what_is_here() -> None:
    batcher = Batcher[Unit](Clock())
    units = [Unit(budget=Budget(64, 100)) for _ in range(8)]
    batcher.put(units)
    assert halves(batcher) == units[:4], "half of 8"
    assert halves(batcher, beside=4) == units[4:], "half of the 4 that run and the 4 that wait"
    batcher.put(units)
    assert halves(batcher, beside=2) == units[:5]
    batcher.put(units[:1])
    assert batcher.take(parts=lambda head: 3, beside=0) == units[5:7], "a third of 4, and what is left over"
    assert batcher.take() == [*units[7:], *units[:1]], "who is not one of several takes all"


def test_the_head_of_a_batch_is_taken_though_it_is_more_than_its_part() -> None:
    batcher = Batcher[Unit](Clock())
    units = [Unit(60), Unit(5), Unit(5)]
    batcher.put(units)
    assert halves(batcher) == units[:1]
    assert halves(batcher, beside=60) == units[1:]
    batcher.put(units[:1])
    assert halves(batcher) == units[:1], "nothing else is here"


def test_a_batch_comes_as_near_to_its_part_as_it_gets() -> None:
    """Always less than its part leaves the rest to small batches."""
    batcher = Batcher[Unit](Clock())
    units = [Unit(cost, budget=Budget(64, 200)) for cost in (10, 10, 15)]
    batcher.put(units)
    assert halves(batcher) == units[:2], "20 is nearer to 18 than 10"
    batcher.discard(lambda unit: True)
    batcher.put([Unit(10, budget=Budget(64, 200)), Unit(100)])
    assert [unit.cost for unit in halves(batcher)] == [10], "10 is nearer to 55 than 110"
    assert [unit.cost for unit in halves(batcher, beside=10)] == [100]
    batcher.put([Unit(10, budget=Budget(64, 15)) for _ in range(4)])
    assert len(halves(batcher, beside=100)) == 1, "20 is over the budget"


def test_a_part_is_within_the_budget_and_of_the_heads_lane() -> None:
    batcher = Batcher[Unit](Clock())
    units = [Unit(10, budget=Budget(64, 30)) for _ in range(20)]
    batcher.put(units)
    assert halves(batcher, beside=500) == units[:3]
    batcher.discard(lambda unit: unit not in units[3:5])
    batcher.put([Unit(lane="b") for _ in range(50)])
    assert halves(batcher) == units[3:4], "the other lane's cost is not shared out here"


def test_parts_are_asked_of_the_head() -> None:
    batcher = Batcher[Unit](Clock())
    first, second = [Unit(lane="a") for _ in range(4)], [Unit(lane="b") for _ in range(4)]
    batcher.put([*first, *second])
    assert batcher.take(parts=lambda head: 1 if head.lane == "a" else 2) == first
    assert batcher.take(parts=lambda head: 1 if head.lane == "a" else 2) == second[:2]


def test_a_padding_lane_is_cut_by_what_its_part_costs_when_padded() -> None:
    batcher = Batcher[Unit](Clock())
    units = [Unit(cost, budget=Budget(8, 1000, padded=True)) for cost in (10, 9, 8, 3)]
    batcher.put(units)
    assert sorted(unit.cost for unit in halves(batcher, beside=10)) == [9, 10], "2 x 10 fits in half of 40"
    batcher.put(units[:2])
    assert len(batcher.take()) == 4, "it is not one of several: 4 x 10 fits in its budget, though not in what is here"


def test_of_a_long_lane_no_more_is_looked_at_than_a_part_needs() -> None:
    looks = itertools.count()

    class Seen(Unit):
        def __getattribute__(self, name: str) -> object:
            if name == "cost":
                next(looks)
            return super().__getattribute__(name)

    batcher = Batcher[Unit](Clock())
    batcher.put([Seen(budget=Budget(4, 8)) for _ in range(5000)])
    before = next(looks)
    assert len(halves(batcher)) == 4
    assert next(looks) - before < 50


def test_owners_take_turns_by_cost_and_weight() -> None:
    batcher = Batcher[Unit](Clock())
    budget = Budget(4, 1000)
    batcher.put([Unit(owner="flood", budget=budget) for _ in range(2048)])
    assert [unit.owner for unit in batcher.take()] == ["flood"] * 4
    lone = Unit(owner="lone", budget=budget)
    batcher.put([lone])
    assert lone in batcher.take(), "one item does not wait for 2,044 that came before it"
    batcher.put([Unit(10, owner="long", budget=budget) for _ in range(100)])
    batcher.put([Unit(10, owner="heavy", weight=3, budget=budget) for _ in range(100)])
    batcher.put([Unit(1, owner="short", budget=budget) for _ in range(1000)])
    taken = [unit for _ in range(100) for unit in batcher.take()]
    cost = {
        name: sum(unit.cost for unit in taken if unit.owner == name) for name in ("flood", "long", "heavy", "short")
    }
    assert abs(cost["flood"] - cost["short"]) <= 10, cost
    assert abs(cost["long"] - cost["short"]) <= 20, cost
    assert abs(cost["heavy"] - 3 * cost["short"]) <= 40, cost


def test_who_comes_back_again_and_again_gets_no_more_than_its_share() -> None:
    batcher = Batcher[Unit](Clock())
    budget = Budget(1, 1000)
    batcher.put([Unit(owner="flood", budget=budget) for _ in range(200)])
    batcher.put([Unit(owner="other", budget=budget) for _ in range(200)])
    served = {"flood": 0, "other": 0, "again": 0}
    last = "again"
    for _ in range(150):
        if last == "again":
            batcher.put([Unit(owner="again", budget=budget)])
        last = batcher.take()[0].owner
        served[last] += 1
    assert max(served.values()) - min(served.values()) <= 3, served


def test_discard() -> None:
    batcher = Batcher[Unit](Clock())
    keep, drop = Unit(), Unit(cost=7)
    batcher.put([keep, drop])
    assert batcher.discard(lambda unit: unit.cost == 7) == [drop]
    assert batcher.take() == [keep]
    batcher.put([drop])
    assert batcher.discard(lambda unit: True) == [drop]
    assert batcher.ready_in() is None


budgets = st.builds(Budget, st.integers(1, 5), st.integers(1, 40), st.sampled_from([0.0, 1.0]), st.booleans())


@settings(max_examples=300, deadline=None)
@given(st.data(), st.dictionaries(st.sampled_from("abc"), budgets, min_size=3, max_size=3))
def test_no_unit_is_lost_doubled_or_over_budget(data: st.DataObject, lanes: dict[str, Budget]) -> None:
    clock = Clock()
    batcher = Batcher[Unit](clock)
    waiting: list[Unit] = []
    for _ in range(data.draw(st.integers(1, 25))):
        if data.draw(st.booleans()):
            lane = data.draw(st.sampled_from("abc"))
            unit = Unit(data.draw(st.integers(1, 20)), data.draw(st.sampled_from([0, 3, 6])), lane, lanes[lane])
            batcher.put([unit])
            waiting.append(unit)
        else:
            clock.now += data.draw(st.sampled_from([0.0, 0.6]))
            parts, beside = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 40))
            _check(batcher, batcher.take(parts=lambda head, parts=parts: parts, beside=beside), waiting, parts, beside)  # type: ignore[misc]
        assert len(batcher) == len(waiting)
    clock.now += 10
    while waiting:
        before = len(waiting)
        _check(batcher, batcher.take(), waiting)
        assert len(waiting) < before, "what waits long enough always runs"
    assert batcher.take() == []


mixes = st.lists(st.lists(st.tuples(st.sampled_from([0, 3, 6]), st.integers(1, 8), st.sampled_from("xy")), max_size=6))


@settings(max_examples=400, deadline=None)
@given(mixes, budgets, budgets)
def test_a_flood_costs_an_urgent_unit_at_most_one_batch(
    mixes: list[list[tuple[int, int, str]]], one: Budget, other: Budget
) -> None:
    """It comes while one with less urgent units runs, or waits for one, or is in one; only one of these, once."""
    lanes = {name: Budget(b.max_size, b.max_cost, 0.0, b.padded) for name, b in (("x", one), ("y", other))}
    batcher = Batcher[Unit](Clock())
    met: dict[int, int] = {}  # by urgent unit that waits
    running: list[Unit] = []
    for coming in itertools.chain(mixes, itertools.repeat([])):
        units = [Unit(cost, priority, lane, lanes[lane]) for priority, cost, lane in coming]
        batcher.put(units)
        met |= {id(unit): _mixed(running) for unit in units if unit.priority == 0}
        running = batcher.take()
        met = {unit: times + _mixed(running) for unit, times in met.items()}
        assert all(times <= 1 for times in met.values())
        for unit in running:
            met.pop(id(unit), None)
        if not coming and not running:
            return


def _mixed(batch: list[Unit]) -> int:
    return int(any(unit.priority > 0 for unit in batch))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.tuples(st.sampled_from([0, 3, 6]), st.integers(1, 8)), max_size=6), st.booleans())),
    budgets,
)
def test_a_flood_goes_on_beside_urgent_units(mixes: list[tuple[list[tuple[int, int]], bool]], budget: Budget) -> None:
    """However many come: of two batches in a row that less urgent units would have had room in, and that none of them
    ran beside, one has some."""
    budget = Budget(budget.max_size, budget.max_cost)
    batcher = Batcher[Unit](Clock())
    waiting: list[Unit] = []
    kept_out = False
    for coming, shared in mixes:
        units = [Unit(cost, priority, budget=budget) for priority, cost in coming]
        batcher.put(units)
        waiting = sorted([*waiting, *units], key=lambda unit: unit.priority)
        batch = batcher.take(shared=shared)
        waiting = waiting[len(batch) :]
        if not batch or _mixed(batch):
            kept_out = False
        elif (
            not shared
            and waiting
            and len(batch) < budget.max_size
            and sum(u.cost for u in [*batch, waiting[0]]) <= budget.max_cost
        ):
            assert not kept_out
            kept_out = True


def _check(batcher: Batcher[Unit], batch: list[Unit], waiting: list[Unit], parts: int = 1, beside: int = 0) -> None:
    if not batch:
        return
    budget = batch[0].budget
    assert len({unit.lane for unit in batch}) == 1
    assert len(set(map(id, batch))) == len(batch) <= budget.max_size
    longest, total = max(unit.cost for unit in batch), sum(unit.cost for unit in batch)
    cost = longest * len(batch) if budget.padded else total
    assert len(batch) == 1 or cost <= budget.max_cost
    lane = [unit for unit in waiting if unit.lane == batch[0].lane]
    here = beside + sum(unit.cost for unit in lane)
    part = budget.max_cost if parts == 1 else min(budget.max_cost, math.ceil(here / parts))
    nearest = cost <= part if budget.padded else cost - part <= part - (cost - batch[-1].cost)
    assert len(batch) == 1 or nearest, "what came last brought it nearer to its part"
    head = min(lane, key=lambda unit: (unit.priority, waiting.index(unit)))
    assert head in batch, "the head of a lane is never passed over"
    if not budget.padded:
        order = sorted(lane, key=lambda unit: (unit.priority, waiting.index(unit)))
        assert batch == order[: len(batch)]
        urgent = [unit for unit in order if is_urgent(unit)]
        more = (urgent if batch == urgent[: len(batch)] else order)[len(batch) : budget.max_size]
        over = [total + unit.cost for unit in more[:1]]
        assert all(cost > budget.max_cost or cost - part > part - total for cost in over), "nor would the next have"
    for unit in batch:
        waiting.remove(unit)


@dataclass(eq=False)
class Wait:
    """Of one unit. `before`: what its owner had asked for before it, in cost; `waiting`: whom it found."""

    unit: Unit
    put: int
    takes: int
    before: int
    waiting: list[Unit]
    passed: int = -1


owners = st.sampled_from("abcdef")
arrivals = st.tuples(owners, st.sampled_from([0, 3, 6]), st.integers(1, 8), st.sampled_from("xy"))


@settings(max_examples=400, deadline=None)
@given(st.lists(arrivals | st.none(), max_size=60), budgets, budgets)
def test_nobody_starves(steps: list[tuple[str, int, int, str] | None], one: Budget, other: Budget) -> None:
    """Whatever comes later, a unit is taken within a number of takes that what was before it and what is more urgent
    bounds: of the later ones of its own priority no owner is before it with more than the unit's owner had asked for
    itself, by weight, since anything waits; so nobody at all is before who had asked for nothing."""
    lanes = {name: Budget(b.max_size, b.max_cost, 0.0, b.padded) for name, b in (("x", one), ("y", other))}
    weights, asked = dict(zip("abcdef", (1, 2, 5, 1, 1, 3), strict=True)), dict.fromkeys("abcdef", 0)
    batcher = Batcher[Unit](Clock())
    waits: list[Wait] = []
    takes = 0

    def take() -> None:
        nonlocal takes
        for unit in batcher.take():
            wait = next(wait for wait in waits if wait.unit is unit)
            wait.passed = takes - wait.takes
        takes += 1
        if not len(batcher):  # nobody competes: nobody owes
            asked.update(dict.fromkeys(asked, 0))

    for step in steps:
        if step is None:
            take()
            continue
        owner, priority, cost, lane = step
        unit = Unit(cost, priority, lane, lanes[lane], owner, weights[owner])
        waits.append(Wait(unit, len(waits), takes, asked[owner], [wait.unit for wait in waits if wait.passed < 0]))
        asked[owner] += cost
        batcher.put([unit])
    while len(batcher):
        take()
    for wait in waits:
        assert 0 <= wait.passed <= _most_before(wait, waits), wait


def _most_before(wait: Wait, waits: list[Wait]) -> int:
    """How many takes may leave it waiting: one for each unit that may be at the head before it."""
    unit = wait.unit
    found = sum(other.priority <= unit.priority for other in wait.waiting)
    gone = wait.takes + wait.passed  # who came after its take is no matter
    later = [w.unit for w in waits[wait.put + 1 :] if w.takes <= gone]
    urgent = sum(other.priority < unit.priority for other in later)
    alike = 0
    for owner in {other.owner for other in later} - {unit.owner}:
        those = [other for other in later if other.owner == owner and other.priority == unit.priority]
        weight = those[0].weight if those else 1
        alike += min(len(those), math.ceil(wait.before * weight / unit.weight))
    return found + urgent + alike
