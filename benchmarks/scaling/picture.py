"""The two plots: what rules cost against how many of their jobs are late, and a day under three of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scaling.cases import TOLD_ON, case, day, service
from benchmarks.scaling.fleet import run
from benchmarks.scaling.policies import Rule, cpu_hpa, fixed
from benchmarks.scaling.traffic import rates

_COLOURS = {
    "ours": "tab:blue",
    "CPU HPA": "tab:orange",
    "fixed": "tab:grey",
    "depth alone": "tab:green",
    "rate alone": "tab:red",
}
_MINUTE, _FEW = 60, 20  # seconds; looks, five minutes of them


def draw(data: dict[str, Any], folder: Path) -> None:
    """scaling-cost.png and scaling-day.png."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, kind in zip(axes, ("cpu", "gpu"), strict=True):
        for row in data[f"pick-{kind}"]["grid"]:
            axis.plot(row["hours"], 100 * row["late_share"], ".", color="lightgrey", zorder=1)
        _points(axis, data[kind]["rows"])
        unit = "GPU-hours" if kind == "gpu" else "worker-hours"
        axis.set(title=f"{kind.upper()} workers", xlabel=f"{unit} a day", ylabel="late jobs, %")
        axis.set_yscale("symlog", linthresh=0.1)
        axis.set_ylim(0, None)
    figure.savefig(folder / "scaling-cost.png", dpi=110)
    plt.close(figure)
    _day(data, folder)


def _points(axis: Any, rows: dict[str, Any]) -> None:
    for name, row in rows.items():
        if "age" in name:
            continue
        colour = next(colour for start, colour in _COLOURS.items() if name.startswith(start))
        axis.plot(row["hours"], 100 * row["late_share"], "o", color=colour, markersize=9 if name == "ours" else 6)
        place, angle = (row["hours"], 100 * row["late_share"]), 0 if row["late"] else 35  # those stand on the axis
        axis.annotate(name, place, xytext=(5, 4), textcoords="offset points", fontsize=8, rotation=angle)


def _day(data: dict[str, Any], folder: Path) -> None:
    import matplotlib.pyplot as plt

    measured, rule = data["measure"]["seconds"], Rule(**data["pick-gpu"]["picked"])
    capacity = service("gpu", measured).capacity
    stand = max(int(name.split()[1]) for name in data["gpu"]["rows"] if name.startswith("fixed"))
    one = case("gpu", measured, TOLD_ON[0])
    ran = {
        "ours": run(one, rule.scaler(capacity, 1)),
        "CPU HPA 70%": run(one, cpu_hpa(0.7)),
        f"fixed {stand}": run(case("gpu", measured, TOLD_ON[0], stand), fixed(stand)),
    }
    figure, (above, middle, below) = plt.subplots(3, 1, figsize=(11, 8), sharex=True, layout="constrained")
    came = rates(day("gpu", capacity), TOLD_ON[0]).reshape(-1, _MINUTE).mean(axis=1)
    above.plot(np.arange(len(came)) / 60, came / capacity, color="black", linewidth=0.8)
    above.set(ylabel="what comes, in workers' capacity", ylim=(0, None), xlim=(0, 24))
    for name, outcome in ran.items():
        colour = next(colour for start, colour in _COLOURS.items() if name.startswith(start))
        at = outcome.looks[:, 0] / 3600
        middle.step(at, outcome.looks[:, 2], where="post", color=colour, label=name, linewidth=1)
        waiting = outcome.looks[: len(at) // _FEW * _FEW, 3].reshape(-1, _FEW).max(axis=1)
        below.plot(at[: len(waiting) * _FEW : _FEW], waiting, color=colour, label=name, linewidth=1)
    middle.set(ylabel="workers that are ready", ylim=(0, None))
    below.set(ylabel="jobs that wait, at most in 5 min", xlabel="hour of the day", yscale="symlog", ylim=(0, None))
    middle.legend(frameon=False, ncols=3)
    figure.savefig(folder / "scaling-day.png", dpi=110)
    plt.close(figure)
