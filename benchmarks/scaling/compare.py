"""Picks the chart's rule, then sets it beside what else could be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.scaling.cases import LATE_S, PICKED_ON, TOLD_ON, case, tried
from benchmarks.scaling.fleet import Case
from benchmarks.scaling.policies import MOST, Rule, ages, cooldowns, cpu_hpa, fixed, grid
from benchmarks.scaling.rules import Scaler

KINDS = ("cpu", "gpu")
LATE_SHARE = 0.01  # of the jobs of the day that rules are picked on
LAZY_SLACK = 0.02  # of a lazy model's jobs, against the rule that has the fewest late ones
Say = Callable[[str], None]
Row = dict[str, Any]


def pick(kind: str, measured: dict[str, float], say: Say) -> Row:
    """All rules of the grid on one day of a kind of worker, and the one that is chosen."""
    days = [case(kind, measured, PICKED_ON)]
    rows = []
    for rule in grid():
        rows.append({"rule": rule.told(), **_rule(days, rule)})
        say(f"{kind} wait {rule.wait_s} busy {rule.busy} down {rule.down_window_s}: {_line(rows[-1])}")
    return {"grid": rows, "picked": choose(rows)}


def choose(rows: Sequence[Row]) -> Row:
    """The rule of the fewest hours of which at most a hundredth of the jobs is late, and waits longer than half of what
    makes it late; where none is, the one with the fewest late."""
    fit = [row for row in rows if row["late_share"] <= LATE_SHARE and row["p99_s"] <= LATE_S / 2]
    best = min(fit, key=lambda row: row["hours"]) if fit else min(rows, key=lambda row: row["late_share"])
    rule: Row = best["rule"]
    return rule


def compare(kind: str, measured: dict[str, float], rule: Rule, say: Say) -> dict[str, Row]:
    """The rows of all rules, on days that nothing was picked on; of fixed fleets from one as cheap as ours to one with
    no more late jobs."""
    days = [case(kind, measured, seed) for seed in TOLD_ON]
    rows = {"ours": _rule(days, rule)}
    for name, make in _others(days, rule).items():
        rows[name] = tried(days, make)
    for replicas in range(int(rows["ours"]["hours"] // 24), MOST + 1):
        rows[f"fixed {replicas}"] = tried(_standing(days, replicas), partial(fixed, replicas))
        if rows[f"fixed {replicas}"]["late_share"] <= rows["ours"]["late_share"]:
            break
    for name, row in rows.items():
        say(f"{kind} {name}: {_line(row)}")
    return rows


def lazy(measured: dict[str, float], rule: Rule, say: Say) -> Row:
    """Of a model that is seldom asked for: how long to wait before the last worker goes, and what none is worth."""
    tries = []
    for one in cooldowns(rule):
        tries.append({"rule": one.told(), **_rule([case("lazy", measured, PICKED_ON, 0)], one, least=0)})
        say(f"lazy cool-down {one.cooldown_s} polling {one.polling_s}: {_line(tries[-1])}")
    picked = Rule(**choose_cooldown(tries))
    nobody = [case("lazy", measured, seed, 0) for seed in TOLD_ON]
    one = _standing(nobody, 1)
    rows = {
        "ours, from none": _rule(nobody, picked, least=0),
        "ours, from one": _rule(one, picked),
        "CPU HPA 70%": tried(one, partial(cpu_hpa, 0.7)),
        "fixed 1": tried(one, partial(fixed, 1)),
    }
    for name, row in rows.items():
        say(f"lazy {name}: {_line(row)}")
    return {"grid": tries, "picked": picked.told(), "rows": rows}


def choose_cooldown(rows: Sequence[Row]) -> Row:
    """The rule of the fewest hours of those that have hardly more late jobs than the best."""
    fewest = min(row["late_share"] for row in rows)
    near = [row for row in rows if row["late_share"] <= fewest + LAZY_SLACK]
    rule: Row = min(near, key=lambda row: row["hours"])["rule"]
    return rule


def _others(days: Sequence[Case], rule: Rule) -> dict[str, Callable[[], Scaler]]:
    capacity = days[0].service.capacity
    others: dict[str, Rule] = {"depth alone": replace(rule, busy=None), "rate alone": replace(rule, wait_s=None)}
    for one in ages(rule):
        others[f"ours, and age {one.oldest_s:g} s{' as a ratio' if one.oldest_ratio else ''}"] = one
    made: dict[str, Callable[[], Scaler]] = {name: partial(one.scaler, capacity, 1) for name, one in others.items()}
    return made | {f"CPU HPA {share:.0%}": partial(cpu_hpa, share) for share in (0.5, 0.7, 0.9)}


def _standing(days: Sequence[Case], replicas: int) -> list[Case]:
    return [replace(one, replicas=replicas) for one in days]


def _rule(days: Sequence[Case], rule: Rule, least: int = 1) -> dict[str, Any]:
    return tried(days, partial(rule.scaler, days[0].service.capacity, least))


def _line(row: Row) -> str:
    return f"p99 {row['p99_s']:.1f} s, {row['late_share']:.2%} late, {row['hours']:.1f} h"
