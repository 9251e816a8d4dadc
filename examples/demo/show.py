"""The demo's tables."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from examples.demo.ask import Answer
from examples.demo.material import Photograph, partner


def photographs(console: Console, photos: list[Photograph], answers: list[Answer]) -> None:
    """Photograph, first labels, times."""
    table = _table("cnn · photographs by POST /inference", "photograph", "answer", "score")
    for photo, answer in zip(photos, answers, strict=True):
        first, second = answer.output["labels"][:2]
        label = f"[bold]{short(first['label'])}[/] [dim]then {short(second['label'])}[/]"
        table.add_row(photo.name, label, f"{first['score']:.0%}", *_times(answer))
    console.print(table)


def sentences(console: Console, texts: list[str], answers: list[Answer], similarity: list[list[float]]) -> None:
    """Sentence, the other sentence nearest to it, times."""
    table = _table("bert · sentences by POST /v1/jobs, then polling", "sentence", "nearest of the others", "cosine")
    for index, text in enumerate(texts):
        other = partner(index)
        table.add_row(text, f"[bold]{texts[other]}[/]", f"{similarity[index][other]:.2f}", *_times(answers[index]))
    console.print(table)


def burst(console: Console, answers: list[Answer], took_s: float) -> None:
    """What 64 calls at once became: batches by size."""
    sizes = Counter(answer.timing["batch_size"] for answer in answers)
    batches = {size: max(1, round(items / size)) for size, items in sizes.items()}
    table = Table(title=f"bert · {len(answers)} texts at once", title_justify="left", title_style="bold")
    table.add_column("batch size", justify="right")
    table.add_column("batches", justify="right")
    table.add_column("texts", justify="left")
    for size in sorted(sizes):
        table.add_row(str(size), str(batches[size]), f"[cyan]{'█' * sizes[size]}[/] {sizes[size]}")
    console.print(table)
    mean = len(answers) / sum(batches.values())
    console.print(
        f"{len(answers)} answers in {took_s:.2f} s: {len(answers) / took_s:.0f} texts/s in "
        f"{sum(batches.values())} batches, {mean:.1f} texts each on average\n",
        highlight=False,
    )


def short(label: str) -> str:
    """ImageNet's labels are lists of synonyms."""
    return label.split(",", maxsplit=1)[0]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in columns[:-1]:
        table.add_column(name)
    for name in (columns[-1], "queue ms", "predict ms", "batch"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _times(answer: Answer) -> tuple[str, str, str]:
    timing = answer.timing
    return f"{timing['queue_ms']:.1f}", f"{timing['predict_ms']:.1f}", str(timing["batch_size"])
