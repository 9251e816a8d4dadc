"""The model of benchmarks/scaling: against queueing theory, against what Kubernetes documents, and against itself."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.scaling import report
from benchmarks.scaling.cases import ASSUMED, LATE_S, PICKED_ON, case, service, told
from benchmarks.scaling.compare import choose, choose_cooldown
from benchmarks.scaling.fleet import SCRAPE_S, SYNC_S, Case, Hosts, Outcome, run
from benchmarks.scaling.policies import MOST, WINDOW_S, Rule, cpu_hpa, fixed
from benchmarks.scaling.rules import (
    Behavior,
    Fixed,
    Hpa,
    Keda,
    Reading,
    View,
    by_value,
    on_age,
    on_age_ratio,
    on_cpu,
    on_depth,
    on_rate,
    per_replica,
)
from benchmarks.scaling.service import Service
from benchmarks.scaling.traffic import DAY_S, Day, arrivals, rates
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
BATCHED = Service((1.0, 1.2, 1.4, 1.6))
SOON = Hosts(20.0)


def poisson(rate: float, jobs: int, seed: int = 1) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, jobs))


@dataclass(frozen=True, slots=True)
class Exponential(Service):
    """Each job alone, for a time of its own."""

    seconds: tuple[float, ...] = (1.0,)
    draw: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def time(self, jobs: int) -> float:
        assert jobs == 1
        return float(self.draw.exponential(self.seconds[0]))


def mean_wait(service: Service, servers: int, rate: float, jobs: int) -> float:
    outcome = run(Case(poisson(rate, jobs), service, SOON, servers), fixed(servers))
    return float((outcome.began - outcome.arrived).mean())


@pytest.mark.parametrize("load", [0.5, 0.7])
def test_waits_are_those_of_m_d_1(load: float) -> None:
    assert mean_wait(Service((1.0,)), 1, load, 150_000) == pytest.approx(load / (2 * (1 - load)), rel=0.06)


@pytest.mark.long
def test_waits_are_those_of_m_m_1() -> None:
    assert mean_wait(Exponential(), 1, 0.6, 200_000) == pytest.approx(0.6 / 0.4, rel=0.06)


@pytest.mark.long
def test_waits_are_those_of_m_m_3() -> None:
    """Erlang's C for three servers and a load of two: 4/9 of the jobs wait, for a second on average."""
    assert mean_wait(Exponential(), 3, 2.0, 200_000) == pytest.approx(4 / 9, rel=0.06)


def test_a_lone_job_does_not_wait_for_company_and_a_crowd_shares_a_batch() -> None:
    outcome = run(Case(np.array([10.0, 20.0, 20.1, 20.2, 20.3, 20.4]), BATCHED, SOON), fixed(1))
    assert outcome.began.tolist() == [10.0, 20.0, 21.0, 21.0, 21.0, 21.0]
    assert outcome.ended.tolist() == pytest.approx([11.0, 21.0, 22.6, 22.6, 22.6, 22.6])
    assert outcome.batches == 3


SCALERS = {
    "ours": Rule().scaler(BATCHED.capacity, 1),
    "ours from none": Rule().scaler(BATCHED.capacity, 0),
    "with age": Rule(oldest_s=5.0, oldest_ratio=True).scaler(BATCHED.capacity, 1),
    "cpu": cpu_hpa(0.6),
    "fixed": fixed(3),
}


@pytest.mark.parametrize("name", SCALERS)
def test_every_job_runs_once_and_after_it_came(name: str) -> None:
    came = np.sort(np.concatenate([poisson(1.0, 3000), np.full(500, 900.0)]))
    outcome = run(Case(came, BATCHED, Hosts(20.0, 60.0), 0 if "none" in name else 1), SCALERS[name])
    assert len(outcome.ended) == 3500
    assert np.isfinite(outcome.ended).all()
    assert (outcome.began >= came).all()
    assert (np.diff(outcome.began) >= 0).all(), "first come, first served"
    took = outcome.ended - outcome.began
    sizes = {round(BATCHED.time(size), 6): size for size in range(1, BATCHED.most + 1)}
    starts = np.round(took, 6).tolist()
    assert {*starts} <= {*sizes}
    assert sum(1 / sizes[one] for one in starts) == pytest.approx(outcome.batches), "no batch of another size"


def test_nobody_is_cut_off_by_a_smaller_fleet() -> None:
    """A worker that is told to go finishes its batch, and is paid for until then."""

    @dataclass
    class Two:
        polling_s: float = 1e12

        def poll(self, view: View) -> int:
            return view.replicas

        def want(self, view: View) -> int:
            return 2 if view.now < 30 else 0

    outcome = run(Case(np.array([29.0, 29.1]), Service((100.0,)), SOON, 2), Two())  # type: ignore[arg-type]
    assert outcome.ended.tolist() == [129.0, 129.1]
    assert outcome.paid_s == pytest.approx(129.0 + 129.1)


def test_nodes_that_linger_serve_again_and_are_paid_once() -> None:
    @dataclass
    class Plan:
        polling_s: float = 1e12

        def poll(self, view: View) -> int:
            return view.replicas

        def want(self, view: View) -> int:
            return 1 if view.now < 60 or view.now > 300 else 0

    came = np.array([1.0, 200.0])
    outcome = run(Case(came, Service((1.0,)), Hosts(10.0, 100.0, 600.0), 1), Plan())  # type: ignore[arg-type]
    assert 300 < outcome.began[1] < 330, "ten seconds after it was asked for: the node was still there"
    cold = run(Case(came, Service((1.0,)), Hosts(10.0, 100.0, 50.0), 1), Plan())  # type: ignore[arg-type]
    assert 400 < cold.began[1] < 430
    assert outcome.paid_s == pytest.approx(3600, abs=SYNC_S), (
        "the node's time, from the first hour's beginning to its end"
    )


def view(
    queued: int = 0, *, running: int = 0, replicas: int = 1, ready: int | None = None, now: float = 0.0, **more: object
) -> View:
    reading = Reading(now, queued, running, int(str(more.get("arrived", 0))), float(str(more.get("oldest_s", 0.0))))
    return View(now, [reading], replicas, replicas if ready is None else ready)


def test_the_hpas_arithmetic() -> None:
    """kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale: the ratio, its tolerance, rounding up."""
    assert per_replica(100, 10, 3) == 10
    assert per_replica(101, 10, 3) == 11
    assert per_replica(109, 10, 10) == 10, "a tenth is tolerated"
    assert per_replica(111, 10, 10) == 12
    assert per_replica(0, 10, 3) == 0
    assert by_value(30, 10, 4, 2) == 6, "by those that are ready"
    assert by_value(10.9, 10, 4, 4) == 4


def test_triggers_ask_for_what_they_are_told() -> None:
    assert on_depth(10)(view(35, running=15)) == 5
    assert on_age(10)(view(1, oldest_s=45)) == 5
    assert on_age_ratio(10)(view(1, oldest_s=45, replicas=2)) == 9
    readings = [Reading(at, 0, 0, int(at * 4), 0.0) for at in (0.0, 60.0, 120.0, 180.0)]
    assert on_rate(1.0, 120.0)(View(181.0, readings, 1, 1)) == 4
    assert on_rate(1.0, 120.0)(View(1.0, readings[:1], 1, 1)) == 0, "one reading is no rate"


def test_cpu_is_judged_as_the_hpa_does() -> None:
    def shares(*cpu: float | None) -> View:
        return View(0.0, [Reading(0.0, 0, 0, 0, 0.0)], len(cpu), sum(one is not None for one in cpu), cpu)

    assert on_cpu(0.5)(shares(1.0, 1.0)) == 4
    assert on_cpu(0.5)(shares(0.1, 0.1, 0.1, 0.1)) == 1
    assert on_cpu(0.5)(shares(1.0, None)) == 2, "a pod that starts counts as idle"
    assert on_cpu(0.5)(shares(1.0, None, None)) == 3, "and does not turn it round"
    assert on_cpu(0.5)(shares(None)) == 1


def wants(hpa: Hpa, depths: Sequence[tuple[float, int]], replicas: int) -> list[int]:
    found = []
    for now, depth in depths:
        replicas = hpa.want(view(depth, now=now, replicas=replicas))
        found.append(replicas)
    return found


def test_it_grows_at_its_pace() -> None:
    pods = Hpa([on_depth(1)], 1, 100, Behavior(up_pods=4, up_percent=100))
    assert wants(pods, [(15.0 * n, 90) for n in range(1, 7)], 1) == [5, 10, 20, 40, 80, 90]
    slow = Hpa([on_depth(1)], 1, 100, Behavior(up_pods=1, up_percent=10, up_period_s=60))
    assert wants(slow, [(15.0 * n, 90) for n in range(1, 9)], 1) == [2, 2, 2, 2, 3, 3, 3, 3]


def test_it_shrinks_to_the_most_of_its_window() -> None:
    hpa = Hpa([on_depth(1)], 1, 100, Behavior(up_pods=100, down_window_s=60))
    depths = [(15.0, 8), (30.0, 2), (45.0, 5), (60.0, 2), (75.0, 2), (90.0, 2), (105.0, 2), (120.0, 2)]
    assert wants(hpa, depths, 1) == [8, 8, 8, 8, 5, 5, 2, 2]
    paced = Hpa([on_depth(1)], 1, 100, Behavior(down_window_s=0, down_percent=50, down_period_s=30))
    assert wants(paced, [(15.0 * n, 1) for n in range(1, 6)], 8) == [4, 4, 2, 2, 1]


def test_it_keeps_its_bounds() -> None:
    hpa = Hpa([on_depth(1)], 2, 5, Behavior(up_pods=100, down_window_s=0))
    assert wants(hpa, [(15.0, 90), (30.0, 0)], 3) == [5, 2]


def test_the_greatest_of_its_triggers_counts() -> None:
    hpa = Hpa([on_depth(10), on_age(1)], 1, 100, Behavior(up_pods=100))
    assert hpa.want(view(30, oldest_s=7)) == 7
    assert Hpa([on_depth(10), on_age(1)], 1, 100, Behavior(up_pods=100)).want(view(90, oldest_s=7)) == 9


def test_keda_starts_the_first_and_takes_the_last_after_its_cooldown() -> None:
    keda = Keda(Hpa([on_depth(1)], 1, 5), 0, cooldown_s=100)
    assert keda.poll(view(0, now=50, replicas=0)) == 0
    assert keda.want(view(9, now=51, replicas=0)) == 0, "an HPA rests at none"
    assert keda.poll(view(9, now=60, replicas=0)) == 1
    assert keda.poll(view(0, running=1, now=100)) == 1, "what runs is work too"
    assert keda.poll(view(0, now=200)) == 1
    assert keda.poll(view(0, now=201)) == 0
    kept = Keda(Hpa([on_depth(1)], 2, 5), 2, cooldown_s=0)
    assert kept.poll(view(0, now=500, replicas=2)) == 2
    assert kept.poll(view(1, now=500, replicas=0)) == 2


def test_a_job_to_nobody_waits_for_the_poll_the_node_and_the_pod() -> None:
    keda = Rule().scaler(1.0, 0)
    outcome = run(Case(np.array([1000.0]), Service((1.0,)), Hosts(40.0, 180.0), 0), keda)
    wait = outcome.began[0] - 1000.0
    assert 220 < wait < 220 + SCRAPE_S + keda.polling_s
    # The pod and its node: from its start until the cool-down after the job, and as long as the node lingers.
    assert outcome.paid_s == pytest.approx(220 + 1 + keda.cooldown_s + 600, abs=keda.polling_s + SCRAPE_S)


def test_a_fixed_fleet_is_paid_all_day() -> None:
    outcome = run(Case(np.array([100.0, DAY_S - 10.0]), BATCHED, SOON, 4), Fixed(4))
    assert outcome.paid_s == pytest.approx(4 * DAY_S, abs=4 * SYNC_S)


def test_the_same_seed_is_the_same_day() -> None:
    day = Day(2.0, pile=20)
    assert (arrivals(day, 3) == arrivals(day, 3)).all()
    assert len(arrivals(day, 3)) != len(arrivals(day, 4))


def test_a_day_has_what_it_says() -> None:
    plain = Day(5.0, bursts=0, piles=0)
    came = arrivals(plain, 1)
    assert len(came) == pytest.approx(5 * DAY_S, rel=0.01)
    rate = rates(plain, 1)
    assert rate.min() / rate.max() == pytest.approx(plain.night, rel=0.01)
    assert rate.argmin() == pytest.approx(4 * 3600, abs=60)
    bursty = rates(Day(5.0), 1)
    assert bursty.max() > 1.5 * rate.max()
    assert (bursty >= rate - 1e-9).all()
    piled = arrivals(Day(0.001, piles=3, pile=50), 1)
    assert max(len(list(same)) for _, same in itertools.groupby(piled)) == 50


def test_service_times_are_lines_between_what_is_known() -> None:
    found = Service.of_table({1: 1.0, 4: 2.5, 8: 8.0})
    assert found.seconds == pytest.approx((1.0, 1.5, 2.0, 2.5, 3.875, 5.25, 6.625, 8.0))
    assert found.capacity == pytest.approx(4 / 2.5)
    many = Service.of_table({8: 1.0, 16: 1.5, 64: 6.0}, items_per_job=8)
    assert many.most == 8
    assert many.time(2) == 1.5


def test_late_is_what_a_waiting_caller_has_given_up_on() -> None:
    assert Settings().inference_wait_s == LATE_S
    outcome = Outcome(np.array([0.0, 0.0]), np.array([1.0, 3.0]), np.array([2.0, 30.0]), 7200.0, np.zeros((1, 4)), 2)
    row = told([outcome, outcome])
    assert (row["jobs"], row["late"], row["late_share"], row["hours"]) == (4, 2, 0.5, 2.0)
    assert row["p50_s"] == 2.0


FIGURES = json.loads((ROOT / "docs/benchmarks/scaling.json").read_text())
LAZY = FIGURES["lazy"]["picked"]
CHART = yaml.safe_load((ROOT / "deploy/kubernetes/values.yaml").read_text())


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_chart_has_the_rules_that_were_picked(kind: str) -> None:
    picked = FIGURES[f"pick-{kind}"]["picked"]
    assert CHART["autoscaling"]["presets"][kind] == {
        "waitSeconds": picked["wait_s"],
        "busyShare": picked["busy"] or 0,
        "scaleDownWindowSeconds": picked["down_window_s"],
    }
    assert picked["oldest_s"] is None
    assert CHART["poolDefaults"]["autoscaling"]["oldestSeconds"] == 0, "not asked"


def test_what_is_not_by_kind_is_in_the_chart_as_in_the_model() -> None:
    rule = CHART["poolDefaults"]["autoscaling"]
    assert (rule["cooldownPeriod"], rule["pollingInterval"]) == (LAZY["cooldown_s"], LAZY["polling_s"])
    assert rule["rateWindowSeconds"] == WINDOW_S
    assert rule["maxReplicas"] == MOST
    assert rule["scaleUpPods"] == Behavior().up_pods
    assert CHART["monitoring"]["serviceMonitor"]["interval"] == f"{SCRAPE_S:g}s"
    assert SYNC_S == 15


def test_what_was_picked_is_what_the_rows_say() -> None:
    for kind in ("cpu", "gpu"):
        assert choose(FIGURES[f"pick-{kind}"]["grid"]) == FIGURES[f"pick-{kind}"]["picked"]
    assert choose_cooldown(FIGURES["lazy"]["grid"]) == LAZY


def test_the_figures_are_those_of_the_code() -> None:
    """One row, made again; and what was assumed is what stands in the file."""
    assert FIGURES["pick-gpu"]["assumed"] == ASSUMED
    measured = FIGURES["measure"]["seconds"]
    row = next(row for row in FIGURES["lazy"]["grid"] if row["rule"] == LAZY)
    outcome = run(case("lazy", measured, PICKED_ON, 0), Rule(**LAZY).scaler(service("lazy", measured).capacity, 0))
    assert {"rule": LAZY, **told([outcome])} == row


def test_the_page_has_the_figures() -> None:
    page = (ROOT / "docs/benchmarks/scaling.md").read_text()
    assert report.text(FIGURES) in page
    for name in re.findall(r"\]\((scaling[\w.-]*)\)", page):
        assert (ROOT / "docs/benchmarks" / name).exists(), name
