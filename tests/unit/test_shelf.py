"""Which models stay and which go: in any order of jobs, wishes and time, the memory is never over its budget, and
nothing with work in hand goes."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shared.catalog import ModelSpec, Ref
from worker.handlers.echo import Echo
from worker.shelf import PATIENCE_S, STAY_S, WANTED_S, Place, Shelf, Standing

BUDGET = 100


def place(name: str, size: int, *, lazy: bool = True, keep_alive_s: float = 60) -> Place:
    load = "lazy" if lazy else "preload"
    spec = ModelSpec(task="echo", versions={"1": {}}, load=load, keep_alive_s=keep_alive_s)  # type: ignore[dict-item]
    return Place(Ref(name, "1"), spec, spec.versions["1"], Echo, size)


class Clock:
    """By hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def shelf(*places: Place) -> tuple[Shelf, Clock]:
    clock = Clock()
    return Shelf(places, budget_bytes=BUDGET, clock=clock), clock


MODEL: Any = object()
A, B, C, KEPT = (Ref(name, "1") for name in ("a", "b", "c", "kept"))


def bring(shelf: Shelf, ref: Ref) -> list[Ref] | None:
    """As the loader does."""
    shelf.want(ref)
    victims = shelf.make_room(ref)
    for victim in victims or []:
        shelf.unloaded(victim)
    if victims is not None:
        shelf.loaded(ref, MODEL, shelf.place(ref).size_bytes)
    return victims


def test_the_least_recently_used_makes_room_and_what_is_at_work_stays() -> None:
    own, clock = shelf(place("a", 40), place("b", 40), place("c", 50))
    assert (bring(own, A), bring(own, B)) == ([], [])
    assert bring(own, C) is None, "their jobs are still to be taken"
    clock.now += STAY_S
    assert own.begin(A) is MODEL
    own.end(A)
    assert bring(own, C) == [B]
    assert (own.ready(A), own.ready(B), own.ready(C)) == (MODEL, None, MODEL)
    own.begin(A)
    own.begin(C)
    clock.now += STAY_S
    assert bring(own, B) is None, "both are at work"
    assert own.place(B).standing is Standing.UNLOADED
    own.end(A)
    assert bring(own, B) == [A]


def test_what_is_on_the_device_stays_though_its_jobs_have_ended() -> None:
    """A job that has overrun a time limit of its own is out of hand while its predict goes on."""
    own, clock = shelf(place("a", 60, keep_alive_s=1), place("b", 60))
    bring(own, A)
    own.on_device = lambda: A
    clock.now += 10
    assert (own.take_idle(), bring(own, B)) == ([], None)
    own.on_device = lambda: None
    assert own.take_idle() == [A]


def test_nobody_waits_for_ever_for_others_to_be_idle() -> None:
    own, clock = shelf(place("a", 60), place("b", 60))
    bring(own, A)
    own.begin(A)
    clock.now += 5
    assert bring(own, B) is None
    for _ in range(int(PATIENCE_S)):
        clock.now += 1
        assert bring(own, B) is None
    assert own.place(A).standing is Standing.DRAINING
    assert own.begin(A) is None, "it takes no more"
    assert bring(own, B) is None, "but what it has ends first"
    own.end(A)
    assert bring(own, B) == [A]


def test_a_preloaded_one_never_goes() -> None:
    own, clock = shelf(place("kept", 60, lazy=False), place("a", 60))
    bring(own, KEPT)
    clock.now += 1000
    assert own.take_idle() == []
    for _ in range(30):
        clock.now += 1
        assert bring(own, A) is None
    assert own.ready(KEPT) is MODEL


def test_the_keep_alive_counts_from_the_last_use() -> None:
    own, clock = shelf(place("a", 10, keep_alive_s=60), place("b", 10, keep_alive_s=0))
    bring(own, A)
    bring(own, B)
    clock.now += 59
    own.begin(A)
    clock.now += 1000
    assert own.take_idle() == [], "it is at work; and the other stays until its memory is needed"
    own.end(A)
    clock.now += 61
    assert own.take_idle() == [A]
    assert own.begin(A) is None


def test_wishes_are_forgotten_and_failures_are_not_tried_at_once() -> None:
    own, clock = shelf(place("a", 10), place("b", 10))
    own.want(B)
    clock.now += 1
    own.want(A)
    assert own.wanted() == [B, A]
    clock.now += WANTED_S - 0.5
    assert own.wanted() == [A], "nobody waits for the other any more"
    own.make_room(A)
    own.failed(A, "no such file", retry_in_s=30)
    own.want(A)
    assert (own.wanted(), own.place(A).error, own.used_bytes()) == ([], "no such file", 0)
    clock.now += 31
    own.want(A)
    assert own.wanted() == [A]


def test_one_that_is_larger_than_its_files_pushes_others_out() -> None:
    own, clock = shelf(place("a", 40), place("b", 40))
    bring(own, A)
    clock.now += STAY_S
    assert own.make_room(B) == []
    own.loaded(B, MODEL, 70)
    assert own.shrink() == [A]


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        sizes = {"a": 30, "b": 40, "c": 50, "d": 60}
        self.shelf, self.clock = shelf(place("kept", 20, lazy=False), *(place(n, size) for n, size in sizes.items()))
        assert bring(self.shelf, KEPT) == []
        self.refs = [Ref(name, "1") for name in sizes]
        self.going: list[Ref] = []

    ref = st.integers(0, 3)

    @rule(n=ref)
    def begin(self, n: int) -> None:
        known = self.shelf.ready(self.refs[n])
        assert self.shelf.begin(self.refs[n]) is known

    @rule(n=ref)
    def end(self, n: int) -> None:
        if self.shelf.place(self.refs[n]).in_flight:
            self.shelf.end(self.refs[n])

    @rule(n=ref)
    def want(self, n: int) -> None:
        self.shelf.want(self.refs[n])

    @rule(seconds=st.sampled_from([0.5, 1.5, 11, 70]))
    def time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(fails=st.sampled_from([False, False, True]))
    def load(self, fails: bool) -> None:
        for victim in self.shelf.take_idle():
            self._unload(victim)
        for ref in self.shelf.wanted():
            victims = self.shelf.make_room(ref)
            for victim in victims or []:
                self._unload(victim)
            if victims is not None and fails:
                self.shelf.failed(ref, "broken", retry_in_s=10)
            elif victims is not None:
                self.shelf.loaded(ref, MODEL, self.shelf.place(ref).size_bytes)

    def _unload(self, victim: Ref) -> None:
        assert self.shelf.place(victim).in_flight == 0, "what is at work stays"
        assert self.shelf.begin(victim) is None, "and nothing begins on what goes"
        self.shelf.unloaded(victim)

    @invariant()
    def the_budget_holds(self) -> None:
        assert self.shelf.used_bytes() <= BUDGET
        assert self.shelf.ready(KEPT) is MODEL
        for ref in self.refs:
            held = self.shelf.place(ref)
            assert held.in_flight == 0 or held.standing in (Standing.READY, Standing.DRAINING)
            assert (self.shelf.ready(ref) is MODEL) == (held.standing is Standing.READY)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
