"""Which models stay and which go: in any order of jobs, wishes and time, the memory is never over its budget, and
nothing with work in hand goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shared.catalog import Ref
from shared.model_spec import ModelSpec
from shared.registry import Wanted
from worker.handlers.echo import Echo
from worker.shelf import PATIENCE_S, STAY_S, WANTED_S, Place, Shelf, Standing

BUDGET = 100


def place(name: str, size: int, *, lazy: bool = True, keep_alive_s: float = 60) -> Place:
    load = "lazy" if lazy else "preload"
    spec = ModelSpec(task="echo", versions={"1": {}}, load=load, keep_alive_s=keep_alive_s)  # type: ignore[dict-item]
    return Place(Ref(name, "1"), spec, Echo, size)


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


def at(shelf: Shelf, ref: Ref) -> Place:
    """Its place."""
    return next(place for place in shelf.places() if place.ref == ref)


def refs(places: Iterable[Place] | None) -> list[Ref] | None:
    """Of those."""
    return None if places is None else [place.ref for place in places]


def end(shelf: Shelf, ref: Ref) -> None:
    """A job of it."""
    shelf.end(at(shelf, ref))


def bring(shelf: Shelf, ref: Ref) -> list[Ref] | None:
    """As the loader does."""
    shelf.want(ref)
    victims = shelf.make_room(at(shelf, ref))
    for victim in victims or []:
        shelf.unloaded(victim)
    if victims is not None:
        shelf.loaded(at(shelf, ref), MODEL)
    return refs(victims)


def test_the_least_recently_used_makes_room_and_what_is_at_work_stays() -> None:
    own, clock = shelf(place("a", 40), place("b", 40), place("c", 50))
    assert (bring(own, A), bring(own, B)) == ([], [])
    assert bring(own, C) is None, "their jobs are still to be taken"
    clock.now += STAY_S
    assert own.begin(A) is at(own, A)
    end(own, A)
    assert bring(own, C) == [B]
    assert (own.ready(A), own.ready(B), own.ready(C)) == (MODEL, None, MODEL)
    own.begin(A)
    own.begin(C)
    clock.now += STAY_S
    assert bring(own, B) is None, "both are at work"
    assert at(own, B).standing is Standing.UNLOADED
    end(own, A)
    assert bring(own, B) == [A]


def test_what_is_on_the_device_stays_though_its_jobs_have_ended() -> None:
    """A job that has overrun a time limit of its own is out of hand while its predict goes on."""
    own, clock = shelf(place("a", 60, keep_alive_s=1), place("b", 60))
    bring(own, A)
    own.is_on_device = lambda place: place is at(own, A)
    clock.now += 10
    assert (refs(own.take_idle()), bring(own, B)) == ([], None)
    own.is_on_device = lambda _: False
    assert refs(own.take_idle()) == [A]


def test_nobody_waits_for_ever_for_others_to_be_idle() -> None:
    own, clock = shelf(place("a", 60), place("b", 60))
    bring(own, A)
    own.begin(A)
    clock.now += 5
    assert bring(own, B) is None
    for _ in range(int(PATIENCE_S)):
        clock.now += 1
        assert bring(own, B) is None
    assert at(own, A).standing is Standing.DRAINING
    assert own.begin(A) is None, "it takes no more"
    assert bring(own, B) is None, "but what it has ends first"
    end(own, A)
    assert bring(own, B) == [A]


def test_a_preloaded_one_never_goes() -> None:
    own, clock = shelf(place("kept", 60, lazy=False), place("a", 60))
    bring(own, KEPT)
    clock.now += 1000
    assert refs(own.take_idle()) == []
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
    assert refs(own.take_idle()) == [], "it is at work; and the other stays until its memory is needed"
    end(own, A)
    clock.now += 61
    assert refs(own.take_idle()) == [A]
    assert own.begin(A) is None


def test_wishes_are_forgotten_and_failures_are_not_tried_at_once() -> None:
    own, clock = shelf(place("a", 10), place("b", 10))
    own.want(B)
    clock.now += 1
    own.want(A)
    assert refs(own.wanted()) == [B, A]
    clock.now += WANTED_S - 0.5
    assert refs(own.wanted()) == [A], "nobody waits for the other any more"
    own.make_room(at(own, A))
    own.failed(at(own, A), "no such file", retry_in_s=30)
    own.want(A)
    assert (refs(own.wanted()), at(own, A).error, own.used_bytes()) == ([], "no such file", 0)
    clock.now += 31
    own.want(A)
    assert refs(own.wanted()) == [A]


def test_one_that_is_larger_than_its_files_pushes_others_out() -> None:
    own, clock = shelf(place("a", 40), place("b", 40))
    bring(own, A)
    clock.now += STAY_S
    assert own.make_room(at(own, B)) == []
    at(own, B).size_bytes = 70
    assert refs(own.shrink()) == [A]
    own.loaded(at(own, B), MODEL)


def spec(*versions: str, lazy: bool = False, batch: int = 64) -> ModelSpec:
    """A model of these versions."""
    given = {"task": "echo", "versions": {version: {} for version in versions}, "batch": {"max_size": batch}}
    return ModelSpec.model_validate(given | ({"load": "lazy"} if lazy else {}))


def follow(shelf: Shelf, wanted: dict[str, Wanted], *, size: int = 40) -> bool:
    """As the worker does, by version of the model m."""
    asked = {Ref("m", version): one for version, one in wanted.items()}
    return shelf.follow(asked, lambda ref, one: Place(ref, one.spec, Echo, size, one.coming, one.going))


def load_all(shelf: Shelf) -> list[Ref]:
    """One turn of the loader, where all fits."""
    brought = []
    for place in shelf.wanted():
        assert shelf.make_room(place) == []
        shelf.loaded(place, MODEL)
        brought.append(place.ref)
    return brought


ONE, TWO = Ref("m", "1"), Ref("m", "2")


def test_a_coming_version_is_loaded_beside_and_the_going_one_ends_its_work() -> None:
    own, _ = shelf()
    assert follow(own, {"1": Wanted(spec("1"))})
    assert (load_all(own), load_all(own)) == ([ONE], [])
    held = own.begin(ONE)
    assert held is not None
    both = {"1": Wanted(spec("1"), going=True), "2": Wanted(spec("2"), coming=True)}
    assert follow(own, both)
    assert not follow(own, both)
    assert load_all(own) == [TWO]
    assert (own.ready(ONE), own.ready(TWO)) == (MODEL, MODEL)
    assert follow(own, {"2": Wanted(spec("2"))})
    assert (own.ready(ONE), own.begin(ONE), own.take_left()) == (None, None, [])
    assert own.used_bytes() == 80, "it is still at work"
    own.end(held)
    assert own.take_left() == [held]
    own.unloaded(held)
    assert (own.used_bytes(), refs(own.places())) == (40, [TWO])


def test_another_build_takes_the_place_of_the_one_that_is_there_when_it_is_loaded() -> None:
    own, clock = shelf()
    follow(own, {"1": Wanted(spec("1"))})
    load_all(own)
    old = own.begin(ONE)
    assert old is not None
    assert follow(own, {"1": Wanted(spec("1", batch=3), coming=True)})
    assert own.begin(ONE) is old, "it serves on"
    own.end(old)
    following = own.next_of(ONE)
    assert following is not None
    own.make_room(following)
    own.failed(following, "broken", retry_in_s=30)
    assert (own.ready(ONE), own.wanted()) == (MODEL, []), "one that does not load changes nothing"
    clock.now += 31
    assert load_all(own) == [ONE]
    assert own.begin(ONE) is following
    own.end(old)
    assert own.take_left() == [old]
    own.unloaded(old)
    assert own.used_bytes() == 40
    follow(own, {"1": Wanted(spec("1", batch=4), coming=True)})
    assert follow(own, {"1": Wanted(spec("1", batch=3))}), "called off"
    assert (own.next_of(ONE), own.wanted()) == (None, [])


def test_versions_that_do_not_fit_beside_each_other_take_turns() -> None:
    own, clock = shelf()
    follow(own, {"1": Wanted(spec("1"))}, size=60)
    load_all(own)
    clock.now += 100
    both = {"1": Wanted(spec("1"), going=True), "2": Wanted(spec("2"), coming=True)}
    follow(own, both, size=60)
    (two,) = own.wanted()
    assert (own.make_room(two), own.can_fit(two)) == (None, False)
    assert own.yield_for(two) == [ONE]
    one = at(own, ONE)
    assert own.make_room(two) == [one]
    own.unloaded(one)
    own.failed(two, "broken", retry_in_s=600)
    assert own.wanted() == [one], "the old one comes back at once, asked for or not"
    own.make_room(one)
    own.loaded(one, MODEL)
    clock.now += 601
    assert (own.wanted(), own.make_room(two), own.yield_for(two)) == ([two], None, [ONE])
    assert own.make_room(two) == [one]
    own.unloaded(one)
    own.loaded(two, MODEL)
    assert own.wanted() == [], "it has been loaded: both wait for jobs now"
    clock.now += STAY_S
    assert bring(own, ONE) == [TWO]
    follow(own, {"2": Wanted(spec("2"))})
    assert own.take_left() == [one]
    own.unloaded(one)
    assert own.wanted() == [two], "alone it needs no turns"
    own.make_room(two)
    own.loaded(two, MODEL)
    clock.now += 10_000
    assert own.take_idle() == []


def test_a_lazy_coming_version_is_loaded_once_for_a_proof() -> None:
    own, clock = shelf()
    follow(own, {"1": Wanted(spec("1", lazy=True)), "2": Wanted(spec("1", "2", lazy=True), coming=True)})
    assert load_all(own) == [TWO]
    clock.now += 301
    assert refs(own.take_idle()) == [TWO]
    own.unloaded(at(own, TWO))
    assert own.wanted() == []


def test_one_that_does_not_fit_beside_others_of_other_models_is_no_reason_for_turns() -> None:
    own, _ = shelf(place("kept", 60, lazy=False))
    bring(own, KEPT)
    new = Place(TWO, spec("2"), Echo, 60, coming=True)
    own.follow({KEPT: Wanted(at(own, KEPT).spec), TWO: Wanted(spec("2"), coming=True)}, lambda *_: new)
    assert (own.make_room(new), own.can_fit(new), own.yield_for(new)) == (None, False, [])
    assert not at(own, KEPT).yielding


def test_what_was_to_make_room_takes_jobs_again_when_nobody_wants_it_any_more() -> None:
    own, clock = shelf(place("a", 60, keep_alive_s=0), place("b", 60))
    bring(own, A)
    held = own.begin(A)
    clock.now += PATIENCE_S + 1
    bring(own, B)
    for _ in range(int(PATIENCE_S)):
        clock.now += 1
        bring(own, B)
    assert own.begin(A) is None
    clock.now += WANTED_S + 1
    assert (own.wanted(), own.begin(A)) == ([], None)
    own.relent()
    assert own.begin(A) is held


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
        place = self.shelf.begin(self.refs[n])
        assert (None if place is None else place.model) is known

    @rule(n=ref)
    def end(self, n: int) -> None:
        if at(self.shelf, self.refs[n]).in_flight:
            end(self.shelf, self.refs[n])

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
        wanted = self.shelf.wanted()
        if not wanted:
            self.shelf.relent()
        for place in wanted:
            victims = self.shelf.make_room(place)
            for victim in victims or []:
                self._unload(victim)
            if victims is not None and fails:
                self.shelf.failed(place, "broken", retry_in_s=10)
            elif victims is not None:
                self.shelf.loaded(place, MODEL)

    def _unload(self, victim: Place) -> None:
        assert victim.in_flight == 0, "what is at work stays"
        assert self.shelf.begin(victim.ref) is None, "and nothing begins on what goes"
        self.shelf.unloaded(victim)

    @invariant()
    def the_budget_holds(self) -> None:
        assert self.shelf.used_bytes() <= BUDGET
        assert self.shelf.ready(KEPT) is MODEL
        for ref in self.refs:
            held = at(self.shelf, ref)
            assert held.in_flight == 0 or held.standing in (Standing.READY, Standing.DRAINING)
            assert (self.shelf.ready(ref) is MODEL) == (held.standing is Standing.READY)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
