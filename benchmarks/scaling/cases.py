"""The days that rules are tried on: what comes, what a worker takes for it, and how long one needs to start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scaling.fleet import Case, Hosts, Outcome, run
from benchmarks.scaling.rules import Scaler
from benchmarks.scaling.service import Service
from benchmarks.scaling.traffic import Day, arrivals

ASSUMED: dict[str, Any] = json.loads(Path(__file__).with_name("assumptions.json").read_text())
LATE_S = 25.0  # ML_INFERENCE_WAIT_S: who waits at /inference has got a 504 by then
TEXTS_PER_JOB = 8
PICKED_ON, TOLD_ON = 1, (2, 3, 4)  # seeds: rules are judged by other days than those that they were picked on


def service(kind: str, measured: dict[str, float]) -> Service:
    """`cpu`: what was measured, for jobs of eight texts. `gpu` and `lazy`: what is assumed."""
    if kind == "cpu":
        return Service.of_table({int(size): took for size, took in measured.items()}, items_per_job=TEXTS_PER_JOB)
    return Service.of_table({int(size): took for size, took in ASSUMED["gpu_seconds"].items()})


def day(kind: str, capacity: float) -> Day:
    """The mean load of all day keeps one and a half workers busy, its worst minutes about ten. `lazy`: a model that is
    asked for now and then, some minutes at a time."""
    if kind == "lazy":
        return Day(rate=0.0001 * capacity, night=0.0, bursts=10, burst_rise=(200, 600), burst_s=600)
    return Day(rate=1.5 * capacity, pile=round(10 * capacity))


def hosts(kind: str) -> Hosts:
    """CPU workers have nodes; a GPU's node must be started."""
    if kind == "cpu":
        return Hosts(ASSUMED["cpu_start_s"])
    return Hosts(ASSUMED["gpu_start_s"], ASSUMED["gpu_node_s"], ASSUMED["node_linger_s"])


def case(kind: str, measured: dict[str, float], seed: int, replicas: int = 1) -> Case:
    """One day."""
    works = service(kind, measured)
    return Case(arrivals(day(kind, works.capacity), seed), works, hosts(kind), replicas)


def told(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Of one rule's days. `wait`: from the arrival to the device. `hours`: of pods (and nodes kept for them), a day."""
    waits = np.concatenate([one.began - one.arrived for one in outcomes])
    took = np.concatenate([one.ended - one.arrived for one in outcomes])
    late = int((took > LATE_S).sum())
    p50, p99 = np.percentile(waits, [50, 99]).tolist()
    return {
        "jobs": len(waits),
        "p50_s": round(p50, 3),
        "p99_s": round(p99, 3),
        "late": late,
        "late_share": round(late / len(waits), 6),
        "hours": round(sum(one.paid_s for one in outcomes) / 3600 / len(outcomes), 2),
        "most": int(max(one.looks[:, 1].max() for one in outcomes)),
        "mean_batch": round(len(waits) / sum(one.batches for one in outcomes), 2),
    }


def tried(cases: Sequence[Case], make: Any) -> dict[str, Any]:
    """`make` gives a new scaler for each day."""
    scalers: list[Scaler] = [make() for _ in cases]
    return told([run(one, scaler) for one, scaler in zip(cases, scalers, strict=True)])
