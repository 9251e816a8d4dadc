"""What the registry says, and how it changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pydantic import ValidationError

from shared.catalog import Ref
from shared.errors import NothingToRollBack, UnknownModel, VersionExists, VersionInUse
from shared.model_spec import ModelSpec, VersionSpec
from shared.registry import Registry, ref_of
from shared.registry_diff import differences


def spec(*versions: str, **more: Any) -> ModelSpec:
    return ModelSpec.model_validate({"task": "echo", "versions": {name: {"source": name} for name in versions}} | more)


def one(*versions: str, **more: Any) -> Registry:
    """Of the model m."""
    return Registry().with_models({"m": spec(*versions, **more)}, outright=True)


def now(registry: Registry) -> dict[str, float]:
    """Version: weight, as callers get it."""
    return registry.catalog().spec("m").weights()


def loads(registry: Registry) -> set[str]:
    return {str(ref) for ref in registry.wanted()}


def test_what_is_new_is_had_at_once_and_what_is_changed_when_workers_have_it() -> None:
    first = one("1")
    assert (now(first), first.models["m"].coming()) == ({"1": 1}, [])
    second = first.with_models({"m": spec("2")})
    assert (now(second), second.models["m"].coming()) == ({"1": 1}, ["2"])
    assert loads(second) == {"m@1", "m@2"}
    assert [str(ref) for ref in second.served()] == ["m@1"], "what a new worker loads first"
    asked = second.wanted()
    assert (asked[Ref("m", "1")].going, asked[Ref("m", "2")].coming) == (True, True)
    with pytest.raises(UnknownModel, match="no version '2'; it has 1"):
        second.catalog().resolve("m@2")
    third = second.switched("m")
    assert (now(third), list(third.retiring), loads(third)) == ({"2": 1}, ["m@1"], {"m@1", "m@2"})
    assert third.retiring["m@1"].load == "lazy", "for its last jobs alone it need not stay loaded"
    assert loads(third.retired(["m@1"])) == {"m@2"}
    assert {str(ref) for ref, _, _ in third.catalog().refs()} == {"m@1", "m@2"}, "its jobs are still swept and counted"


def test_a_rollback_calls_off_or_undoes_and_twice_is_back_again() -> None:
    begun = one("1").with_models({"m": spec("2")})
    off = begun.rolled_back("m")
    assert (now(off), loads(off), off.models["m"].serving) == ({"1": 1}, {"m@1"}, None)
    with pytest.raises(NothingToRollBack, match="m has not been changed"):
        off.rolled_back("m")
    done = begun.switched("m")
    back = done.rolled_back("m")
    assert (now(back), back.models["m"].coming(), loads(back)) == ({"2": 1}, ["1"], {"m@1", "m@2"})
    again = back.switched("m").rolled_back("m").switched("m")
    assert (now(again), list(again.retiring)) == ({"2": 1}, ["m@1"])


def test_traffic_moves_at_once_where_nothing_must_be_loaded() -> None:
    both = one("1", "2", traffic={"1": 1})
    moved = both.with_traffic("m", {"1": 90, "2": 10})
    assert (now(moved), moved.models["m"].serving) == ({"1": 90, "2": 10}, None)
    assert now(moved.rolled_back("m")) == {"1": 1}
    with pytest.raises(ValidationError, match="names version '3'"):
        both.with_traffic("m", {"3": 1})


def test_a_version_comes_without_traffic_or_in_the_place_of_others() -> None:
    beside = one("1").with_version("m", "2", VersionSpec(source="2"))
    assert (now(beside), now(beside.switched("m"))) == ({"1": 1}, {"1": 1})
    assert beside.switched("m").catalog().resolve("m@2") == Ref("m", "2")
    kept = one("1", "2", traffic={"1": 1}, aliases={"best": "1"})
    placed = kept.with_version("m", "3", VersionSpec(source="3"), replace=True).switched("m")
    assert (now(placed), placed.models["m"].spec.aliases) == ({"3": 1}, {"best": "3"})
    assert list(placed.models["m"].spec.versions) == ["2", "3"], "what had no traffic stays"
    assert list(placed.retiring) == ["m@1"]


def test_a_version_never_changes() -> None:
    for known in (one("1"), one("1").with_models({"m": spec("2")}).switched("m")):
        with pytest.raises(VersionExists, match="m@1 is there already, with other contents"):
            known.with_version("m", "1", VersionSpec(source="other"))
    assert one("1").with_version("m", "1", VersionSpec(source="1")).catalog().spec("m") is not None
    outright = one("1").with_models({"m": spec("1", versions={"1": {"source": "other"}})}, outright=True)
    assert (outright.catalog().spec("m").versions["1"].source, outright.models["m"].serving) == ("other", None)


def test_other_bounds_of_batches_build_a_version_anew_and_other_limits_of_the_queue_do_not() -> None:
    known = one("1")
    assert known.with_models({"m": spec("1", batch={"max_size": 3})}).models["m"].coming() == ["1"]
    changed = known.with_models({"m": spec("1", limits={"queue": 3}, load="lazy", keep_alive_s=7)})
    assert (changed.models["m"].coming(), changed.catalog().spec("m").limits.queue) == ([], 3)


def test_what_is_used_does_not_go() -> None:
    known = one("1", "2", "3", traffic={"1": 1, "2": 0}, aliases={"old": "3"})
    with pytest.raises(VersionInUse, match="m@1 has traffic"):
        known.without_version("m", "1")
    with pytest.raises(VersionInUse, match="an alias names m@3"):
        known.without_version("m", "3")
    with pytest.raises(VersionInUse):
        one("1").without_version("m", "1")
    with pytest.raises(UnknownModel, match="no version '9'"):
        known.without_version("m", "9")
    gone = known.without_version("m", "2")
    assert (list(gone.retiring), list(gone.models["m"].spec.versions)) == (["m@2"], ["1", "3"])


def test_a_new_model_is_had_when_workers_have_it_and_goes_without_a_trace() -> None:
    begun = one("1").with_models({"n": spec("a")})
    assert (begun.models["n"].coming(), loads(begun)) == (["a"], {"m@1", "n@a"})
    assert [str(ref) for ref in begun.served()] == ["m@1"]
    with pytest.raises(UnknownModel, match="'n' is not served: workers are loading it"):
        begun.catalog().resolve("n")
    assert begun.switched("n").catalog().resolve("n") == Ref("n", "a")
    assert loads(begun.with_models({"n": spec("b")})) == {"m@1", "n@b"}
    for off in (begun.rolled_back("n"), begun.without("n")):
        assert (list(off.models), off.retiring) == (["m"], {})


def test_models_go_with_an_exact_file_alone() -> None:
    known = one("1").with_models({"n": spec("a")}).switched("n")
    assert list(known.with_models({"n": spec("a")}).models) == ["m", "n"]
    exact = known.with_models({"o": spec("x"), "n": spec("a")}, exact=True)
    assert (list(exact.models), list(exact.retiring)) == (["o", "n"], ["m@1"])
    with pytest.raises(UnknownModel, match="no model 'm' is configured; there are: n, o"):
        exact.entry("m")


def test_a_change_on_top_of_a_rollout_replaces_it() -> None:
    first = one("1").with_models({"m": spec("2")}).with_models({"m": spec("3")})
    assert (loads(first), now(first)) == ({"m@1", "m@3"}, {"1": 1})
    assert now(first.switched("m").rolled_back("m").switched("m")) == {"1": 1}
    reverted = first.with_models({"m": spec("1")})
    assert (reverted.models["m"].serving, loads(reverted)) == (None, {"m@1"})


def test_differences_are_told_by_field() -> None:
    before = one("1", traffic={"1": 1})
    after = before.with_version("m", "2", VersionSpec(source="s", dtype="bfloat16")).with_models({"n": spec("a")})
    told = {change.path: (change.before, change.after) for change in differences(before, after)}
    assert told == {
        "m.versions.2.source": (None, "s"),
        "m.versions.2.dtype": (None, "bfloat16"),
        "n.task": (None, "echo"),
        "n.versions.a.source": (None, "a"),
        "n.traffic.a": (None, 1.0),
    }
    assert differences(after, after) == []


def test_it_survives_the_way_through_json() -> None:
    known = one("1", "2", traffic={"1": 1}, batch={"max_size": 3}).with_models({"m": spec("3", limits={"queue": 2})})
    again = Registry.model_validate_json(known.stamped().model_dump_json(exclude_defaults=True))
    assert again.wanted() == known.wanted()
    assert again.generation == 1
    assert again.etag.startswith("1-")
    assert again.with_models({"m": spec("3", limits={"queue": 2})}) is again


class Machine(RuleBasedStateMachine):
    """Any order of changes: callers can always ask for something that workers were told to have before."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = one("1")
        self.had = {"m@1"}
        self.accepted: set[str] = set()

    version = st.sampled_from(["1", "2", "3", "4"])

    def change(self, how: Any) -> None:
        try:
            self.registry = how(self.registry)
        except (VersionInUse, NothingToRollBack, UnknownModel, VersionExists, ValidationError):
            return
        self.had &= {str(ref) for ref in self.registry.wanted()}  # the rest is unloaded

    @rule(version=version, replace=st.booleans())
    def put(self, version: str, replace: bool) -> None:
        self.change(lambda now: now.with_version("m", version, VersionSpec(source=version), replace=replace))

    @rule(version=version)
    def delete(self, version: str) -> None:
        self.change(lambda now: now.without_version("m", version))

    @rule(weights=st.dictionaries(version, st.integers(0, 3), min_size=1))
    def traffic(self, weights: dict[str, float]) -> None:
        self.change(lambda now: now.with_traffic("m", weights))

    @rule(versions=st.lists(version, min_size=1, unique=True))
    def apply(self, versions: list[str]) -> None:
        self.change(lambda now: now.with_models({"m": spec(*versions)}, exact=True))

    @rule()
    def roll_back(self) -> None:
        self.change(lambda now: now.rolled_back("m"))

    @rule()
    def submit(self) -> None:
        self.accepted.add(str(self.registry.catalog().resolve("m")))

    @rule()
    def workers_follow(self) -> None:
        """They load what they are to have; then the traffic switches."""
        self.had = {str(ref) for ref in self.registry.wanted()}
        if self.registry.models["m"].rolling:
            self.change(lambda now: now.switched("m"))

    @rule()
    def jobs_end(self) -> None:
        done = list(self.registry.retiring)
        self.accepted -= set(done)
        self.change(lambda now: now.retired(done))

    @invariant()
    def whoever_is_asked_for_is_there(self) -> None:
        wanted = {str(ref) for ref in self.registry.wanted()}
        asked = {f"m@{version}" for version in self.registry.catalog().spec("m").versions}
        assert asked <= wanted
        assert asked <= self.had, "callers get nothing that no worker has loaded"
        assert self.accepted <= wanted, "what has jobs is kept"
        assert not asked & set(self.registry.retiring)
        for ref in self.registry.retiring:
            assert ref_of(ref).model == "m"


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
