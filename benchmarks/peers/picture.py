"""The comparison as a picture: one panel a level, one bar a system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.peers.systems import OURS, SYSTEMS
from examples.demo.picture import FAINT, GRID, INK

MINE, THEIRS = "#d9772b", "#9db4d3"


def draw(path: Path, ratios: Mapping[str, Mapping[str, float]], caption: str) -> None:
    """Write a PNG of sentences a second by those of the in-process forward, by level and system's title."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "text.color": INK,
        "axes.edgecolor": GRID,
        "figure.facecolor": "white",
    }
    titles = list(dict.fromkeys(title for of in ratios.values() for title in of))
    with pyplot.rc_context(style):
        figure, panels = pyplot.subplots(1, len(ratios), figsize=(14, 4.2), dpi=110, sharey=True, squeeze=False)
        figure.text(0.02, 0.93, "Sentences a second, by those of the bare forward", fontsize=16, fontweight="bold")
        figure.text(0.02, 0.87, caption, fontsize=10, color=FAINT)
        for axes, (level, of) in zip(panels[0], ratios.items(), strict=True):
            _panel(axes, level, titles, of)
        figure.subplots_adjust(left=0.15, right=0.98, top=0.76, bottom=0.08, wspace=0.08)
        figure.savefig(path)
        pyplot.close(figure)


def _panel(axes: Any, level: str, titles: list[str], of: Mapping[str, float]) -> None:
    places = [len(titles) - titles.index(title) for title in of]
    colours = [MINE if title == SYSTEMS[OURS].title else THEIRS for title in of]
    axes.barh(places, list(of.values()), color=colours, height=0.7)
    for place, ratio in zip(places, of.values(), strict=True):
        axes.text(ratio + 0.02, place, f"{ratio:.2f}", va="center", fontsize=9, color=INK)
    axes.set_title(level, fontsize=11, color=INK)
    axes.set_xlim(0, 1.19)
    axes.set_yticks(range(len(titles), 0, -1), titles)
    axes.grid(axis="x", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=INK, labelsize=9)
