"""The tables and the plot of benchmarks/growth.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import page

FLAT = 1.25  # the dearest step by the cheapest one; noise of a machine with neighbours is about this much


def spread(values: Sequence[float]) -> str:
    """Whether a cost is the same at every step, and else by how much it grows from the first to the last."""
    if max(values) <= FLAT * min(values):
        return "flat"
    return f"x {values[-1] / values[0]:.2f}"


def queued(data: dict[str, Any]) -> str:
    """One table."""
    costs = [
        ("submit: Redis us", "submit_redis_us", ".0f"),
        ("drain, claim, finish: Redis us", "run_redis_us", ".0f"),
        ("worker us", "run_worker_us", ".0f"),
        ("jobs/s through one worker", "jobs_per_s", ",.0f"),
    ]
    told = f"The first {data['head']:,} jobs of a queue, with so many behind them."
    return f"{told}\n\n{_table(data, 'jobs behind', 'behind', costs)}"


def clients(data: dict[str, Any]) -> str:
    """One table."""
    costs = [
        ("p50 ms", "p50_ms", ".1f"),
        ("p95 ms", "p95_ms", ".1f"),
        ("p99 ms", "p99_ms", ".1f"),
        ("API us a job", "api_us", ",.0f"),
        ("API us, less what the waiting cost", "own_api_us", ",.0f"),
        ("API, nobody but the waiting: cores", "idle_api_cores", ".3f"),
        ("Redis us a job", "redis_us", ",.0f"),
    ]
    return _table(data, "callers that wait", "waiting", costs)


def models(data: dict[str, Any]) -> str:
    """One table."""
    costs = [
        ("jobs/s, 32 callers", "requests_per_s", ",.0f"),
        ("p50 ms", "p50_ms", ".1f"),
        ("p95 ms", "p95_ms", ".1f"),
        ("API us", "api_us", ".0f"),
        ("worker us", "worker_us", ".0f"),
        ("Redis us", "redis_us", ".0f"),
        ("Redis commands", "redis_commands", ".0f"),
    ]
    return _table(data, "models", "models", costs)


def _table(data: dict[str, Any], name: str, step: str, costs: Sequence[tuple[str, str, str]]) -> str:
    """A row for each cost, a column for each step."""
    rows = data["rows"]
    lines = [
        [told, *(format(row[key], form) for row in rows), spread([row[key] for row in rows])]
        for told, key, form in costs
    ]
    table = page.table([name, *(f"{row[step]:,.0f}" for row in rows), ""], lines)
    return f"{table}\n\nMedians of {len(data['rounds'])} rounds."


def draw(parts: Mapping[str, Any], file: Path) -> None:
    """A plot of what a job costs over each step; nothing where a part was never measured."""
    import matplotlib.pyplot as plt

    asked = {
        "queued": ("behind", "jobs in the queue", ("submit_redis_us", "run_redis_us", "run_worker_us")),
        "clients": ("waiting", "callers that wait", ("api_us", "own_api_us", "redis_us")),
        "models": ("models", "models of one worker", ("api_us", "worker_us", "redis_us")),
    }
    if any(name not in parts for name in asked):
        return
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, (name, (step, told, costs)) in zip(axes, asked.items(), strict=True):
        rows = parts[name]["rows"]
        for cost in costs:
            label = cost.removesuffix("_us").replace("_", " ")
            axis.plot([row[step] for row in rows], [row[cost] for row in rows], marker="o", label=label)
        axis.set(xscale="log", xlabel=told, ylabel="CPU a job, microseconds", ylim=(0, None))
        axis.legend(frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)
