"""The demo's picture: the photographs with their labels, and how alike the sentences are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image

from examples.demo.material import Photograph
from examples.demo.show import short

INK, FAINT, GREEN, GRID = "#1b2733", "#66727f", "#1a7f5a", "#c9d3dc"


def draw(
    path: Path,
    *,
    photos: list[Photograph],
    outputs: list[dict[str, Any]],
    texts: list[str],
    similarity: list[list[float]],
    caption: str,
) -> None:
    """Write a PNG. `outputs` are cnn's, one for each photograph; `similarity` is square, in the order of `texts`."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"font.family": "DejaVu Sans", "text.color": INK, "axes.edgecolor": GRID, "figure.facecolor": "white"}
    with pyplot.rc_context(style):
        figure = pyplot.figure(figsize=(15, 10.4), dpi=110)
        left, right = 0.03, 0.985
        figure.text(left, 0.958, "ml-service", fontsize=22, fontweight="bold")
        figure.text(left, 0.934, caption, fontsize=11, color=FAINT)
        figure.text(left, 0.893, "What the photographs show", fontsize=13, fontweight="bold")
        figure.text(left + 0.245, 0.893, "cnn's best labels of ImageNet's thousand", fontsize=10.5, color=FAINT)
        grid = figure.add_gridspec(2, len(photos), height_ratios=(1, 2.15), hspace=0.42, wspace=0.10)
        grid.update(left=left, right=right, top=0.885, bottom=0.03)
        for column, (photo, output) in enumerate(zip(photos, outputs, strict=True)):
            _photograph(figure.add_subplot(grid[0, column]), photo, output["labels"][:3])
        _matrix(figure, grid[1, :].get_position(figure), texts, similarity)
        figure.savefig(path)
        pyplot.close(figure)


def _photograph(axes: Any, photo: Photograph, labels: list[dict[str, Any]]) -> None:
    """Cropped to a square in the middle, so that all stand alike; the labels as bars below."""
    with Image.open(photo.path) as image:
        side = min(image.size)
        x, y = (image.width - side) // 2, (image.height - side) // 2
        axes.imshow(image.convert("RGB").crop((x, y, x + side, y + side)).resize((400, 400)))
    axes.set_xticks([])
    axes.set_yticks([])
    for edge in axes.spines.values():
        edge.set_visible(False)
    for row, label in enumerate(labels):
        top = 1.0 - 1.075 - row * 0.125
        colour, weight = (GREEN, "bold") if row == 0 else (FAINT, "normal")
        place = axes.transAxes
        axes.text(0, top, short(label["label"]), transform=place, fontsize=10, color=colour, weight=weight, va="center")
        axes.text(1, top, f"{label['score']:.0%}", transform=place, fontsize=10, color=colour, ha="right", va="center")
        axes.plot([0, 1], [top - 0.055] * 2, transform=place, color=GRID, lw=1.5, clip_on=False)
        axes.plot([0, label["score"]], [top - 0.055] * 2, transform=place, color=colour, lw=1.5, clip_on=False)


def _matrix(figure: Any, box: Any, texts: list[str], similarity: list[list[float]]) -> None:
    """The sentences on the left, a cell for each pair; the frames are the pairs that say the same."""
    figure.text(box.x0, box.y1 + 0.012, "How alike the sentences are", fontsize=13, fontweight="bold")
    figure.text(
        box.x0 + 0.245, box.y1 + 0.012, "cosine of bert's embeddings; framed: the same said in other words",
        fontsize=10.5, color=FAINT,
    )  # fmt: skip
    axes = figure.add_axes((box.x0 + 0.315, box.y0 + 0.02, box.width - 0.315, box.height - 0.035))
    axes.imshow(similarity, cmap="GnBu", vmin=-0.05, vmax=1.0, aspect="auto")
    count = len(texts)
    axes.set_yticks(range(count), [f"{text}  {i + 1}" for i, text in enumerate(texts)], fontsize=11)
    axes.set_xticks(range(count), [str(i + 1) for i in range(count)], fontsize=11)
    axes.tick_params(length=0, labelcolor=INK)
    for row in range(count):
        for column in range(count):
            value = similarity[row][column]
            colour = "white" if value > 0.6 else INK
            axes.text(
                column,
                row,
                f"{value:.2f}".replace("-0.00", "0.00"),
                ha="center",
                va="center",
                fontsize=10.5,
                color=colour,
            )
    for start in range(0, count, 2):
        corner = (start - 0.5, start - 0.5)
        axes.add_patch(matplotlib.patches.Rectangle(corner, 2, 2, fill=False, ec=GREEN, lw=2.5, clip_on=False))
    for edge in axes.spines.values():
        edge.set_visible(False)
