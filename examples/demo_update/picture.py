"""The demo's picture: who answered, and how fast, over time."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib

from examples.demo.picture import FAINT, GRID, INK
from examples.demo_update.load import Seen

COLOURS = {"1": "#3b6fb6", "2": "#d9772b"}
BIN_S = 0.5


def draw(path: Path, *, seen: list[Seen], events: list[tuple[float, str]], names: dict[str, str], caption: str) -> None:
    """Write a PNG. `events` are instants with what happened then; `names` say what each version is."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    end = max(call.answered_s for call in seen)
    style = {"font.family": "DejaVu Sans", "text.color": INK, "axes.edgecolor": GRID, "figure.facecolor": "white"}
    with pyplot.rc_context(style):
        figure = pyplot.figure(figsize=(14, 9), dpi=110)
        figure.text(0.06, 0.955, "ml-service: a model is updated under load", fontsize=20, fontweight="bold")
        figure.text(0.06, 0.93, caption, fontsize=11, color=FAINT)
        share = figure.add_axes((0.06, 0.55, 0.91, 0.29))
        speed = figure.add_axes((0.06, 0.08, 0.91, 0.38))
        _share(share, seen, end, names)
        _speed(speed, seen, names)
        for axes in (share, speed):
            axes.set_xlim(0, end)
            axes.grid(color=GRID, lw=0.6)
            axes.tick_params(length=0, labelcolor=INK)
            for at, _ in events:
                axes.axvline(at, color=INK, lw=1, ls=(0, (4, 3)))
        for number, (at, told) in enumerate(events):
            place = share.get_xaxis_transform()
            share.text(at + end * 0.004, 1.04 + 0.085 * (number % 2), told, transform=place, fontsize=10, color=INK)
        speed.set_xlabel("seconds", color=FAINT)
        figure.savefig(path)
        pyplot.close(figure)


def _share(axes: Any, seen: list[Seen], end: float, names: dict[str, str]) -> None:
    bins = [index * BIN_S for index in range(int(end / BIN_S) + 1)]
    counts = {version: [0] * len(bins) for version in names}
    for call in seen:
        counts[call.version][min(int(call.asked_s / BIN_S), len(bins) - 1)] += 1
    total = [sum(of[index] for of in counts.values()) or 1 for index in range(len(bins))]
    parts = [[100 * count / all_ for count, all_ in zip(counts[version], total, strict=True)] for version in names]
    axes.stackplot(bins, parts, colors=[COLOURS[version] for version in names], alpha=0.85, step="post", lw=0)
    axes.set_ylim(0, 100)
    axes.set_ylabel("share of the calls, %", color=FAINT)


def _speed(axes: Any, seen: list[Seen], names: dict[str, str]) -> None:
    for version, name in names.items():
        mine = [call for call in seen if call.version == version]
        axes.plot(
            [call.asked_s for call in mine],
            [call.latency_ms for call in mine],
            ".",
            ms=2.5,
            color=COLOURS[version],
            alpha=0.25,
            rasterized=True,
        )
        bins: dict[int, list[float]] = {}
        for call in mine:
            bins.setdefault(int(call.asked_s), []).append(call.latency_ms)
        at = range(max(bins) + 1)  # a gap where it had no calls
        median = [statistics.median(bins[second]) if len(bins.get(second, ())) >= 3 else math.nan for second in at]
        median_of_all = statistics.median(call.latency_ms for call in mine)
        label = f"version {version}, {name}: median {median_of_all:.0f} ms, {len(mine)} calls"
        axes.plot([second + 0.5 for second in at], median, "-", color=COLOURS[version], lw=2.2, label=label)
    latencies = sorted(call.latency_ms for call in seen)
    axes.set_ylim(0, latencies[int(len(latencies) * 0.995)] * 1.3)
    axes.set_ylabel("latency as the caller sees it, ms", color=FAINT)
    axes.legend(loc="upper right", frameon=True, edgecolor=GRID)
