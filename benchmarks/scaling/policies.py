"""The rules that are compared, in words of a worker's capacity, so that one set of numbers fits any model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.scaling.rules import (
    Behavior,
    CpuHpa,
    Fixed,
    Hpa,
    Keda,
    Scaler,
    Trigger,
    on_age,
    on_age_ratio,
    on_cpu,
    on_depth,
    on_rate,
)

MOST = 16
WINDOW_S = 120.0  # over which the rate is taken: several scrapes


@dataclass(frozen=True, slots=True)
class Rule:
    """The chart's `autoscaling`. `wait_s`: replicas for jobs, waiting or running, that one replica would work off in so
    long. `busy`: replicas for a rate that keeps each this share of its capacity. `oldest_s`: one replica for each such
    span that the oldest job has waited, or, with `oldest_ratio`, as many times the replicas. None: not asked."""

    wait_s: float | None = 5.0
    busy: float | None = 0.8
    oldest_s: float | None = None
    oldest_ratio: bool = False
    polling_s: float = 30.0
    cooldown_s: float = 300.0
    down_window_s: float = 300.0

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def scaler(self, capacity: float, least: int) -> Keda:
        """For workers of so many jobs a second."""
        triggers: list[Trigger] = []
        if self.wait_s is not None:
            triggers.append(on_depth(capacity * self.wait_s))
        if self.busy is not None:
            triggers.append(on_rate(capacity * self.busy, WINDOW_S))
        if self.oldest_s is not None:
            triggers.append((on_age_ratio if self.oldest_ratio else on_age)(self.oldest_s))
        hpa = Hpa(triggers, max(1, least), MOST, Behavior(down_window_s=self.down_window_s))
        return Keda(hpa, least, polling_s=self.polling_s, cooldown_s=self.cooldown_s)


def cpu_hpa(target: float, least: int = 1) -> Scaler:
    """The HPA that most charts have. A worker's CPU counts as busy as its device is, which flatters it on a GPU."""
    return CpuHpa(Hpa([on_cpu(target)], least, MOST))


def fixed(replicas: int) -> Scaler:
    """A Deployment of so many."""
    return Fixed(replicas)


def grid() -> list[Rule]:
    """What the chart's defaults are picked from, beside `ages` and `cooldowns`."""
    return [
        Rule(wait_s=wait, busy=busy, down_window_s=window)
        for wait in (5.0, 10.0, 20.0)
        for busy in (None, 0.4, 0.5, 0.6, 0.8, 0.95)
        for window in (300.0, 900.0)
    ]


def ages(rule: Rule) -> list[Rule]:
    """The same with the oldest job's age asked too."""
    return [replace(rule, oldest_s=5.0), replace(rule, oldest_s=15.0, oldest_ratio=True)]


def cooldowns(rule: Rule) -> list[Rule]:
    """The same with other times from the last job to none, and looks at whether there is one."""
    return [replace(rule, cooldown_s=cool, polling_s=look) for cool in (60.0, 300.0, 900.0) for look in (10.0, 30.0)]
