"""`python -m worker check --compare [model ...]`: a model's versions beside each other on the same inputs: what each
costs in time and memory, and how far its outputs are from the first's."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.handler import ItemError
from worker.inprocess import plain, run_items, warm_items

if TYPE_CHECKING:
    from worker.models import LoadedModel

HEADER = ("version", "items/s", "host MB", "device MB", "outputs beside the first version's")
_LEAST_S, _ROUNDS = 0.5, 3
_LEAST_COSINE, _MOST_APART = 0.999, 0.02  # of vectors, and of a label's score, that are about the same


@dataclass(slots=True)
class Compared:
    """One version: how fast its example set runs as batches, and its outputs as JSON data."""

    model: LoadedModel
    items_per_s: float
    outputs: list[Any]


def measure(model: LoadedModel) -> Compared:
    """Run the handler's examples and warm-up inputs, as batches of up to `max_size`; the median of some rounds. Of a
    handler that has none: no speed and no outputs. Raises what `predict` raises."""
    handler, task = model.handler, model.task
    parameters = task.parameters.model_validate(handler.example_parameters)
    items = warm_items(handler)
    if not items:
        return Compared(model, 0.0, [])
    outputs = [answer if isinstance(answer, ItemError) else plain(answer) for answer in _run(model, items, parameters)]
    speeds = []
    for _ in range(_ROUNDS):
        begun, done = time.monotonic(), 0
        while time.monotonic() - begun < _LEAST_S:
            _run(model, items, parameters)
            done += len(items)
        speeds.append(done / (time.monotonic() - begun))
    return Compared(model, statistics.median(speeds), outputs)


def rows(compared: list[Compared]) -> list[tuple[str, ...]]:
    """For a table; the first version is what the others are compared with."""
    first = compared[0]
    return [
        (
            str(one.model.ref),
            f"{one.items_per_s:.1f}",
            f"{one.model.host_bytes / 1e6:.0f}",
            f"{one.model.device_bytes / 1e6:.0f}",
            "-" if one is first else difference(first.outputs, one.outputs),
        )
        for one in compared
    ]


def alike(first: list[Any], other: list[Any]) -> bool:
    """Whether outputs are about the same: vectors by their cosines, ranked labels by the best and its score, anything
    else where it is equal."""
    return all(map(_alike, first, other))


def _alike(first: Any, other: Any) -> bool:
    if (a := _best(first)) and (b := _best(other)):
        return a[0] == b[0] and abs(a[1] - b[1]) <= _MOST_APART
    if (one := _vector(first)) and (two := _vector(other)):
        return len(one) == len(two) and _cosine(one, two) >= _LEAST_COSINE
    return bool(first == other)


def difference(first: list[Any], other: list[Any]) -> str:
    """In words: of vectors the worst cosine, of ranked labels how often the best is the same and how far its score is,
    of anything else how often the outputs are equal."""
    pairs = list(zip(first, other, strict=True))
    if not pairs:
        return "the handler has no example to compare them by"
    vectors = [(a, b) for a, b in zip(map(_vector, first), map(_vector, other), strict=True) if a and b]
    if len(vectors) == len(pairs):
        return f"cosine {min(_cosine(a, b) for a, b in vectors):.4f} at worst"
    labels = [(a, b) for a, b in zip(map(_best, first), map(_best, other), strict=True) if a and b]
    if len(labels) == len(pairs):
        same = sum(a[0] == b[0] for a, b in labels)
        apart = max(abs(a[1] - b[1]) for a, b in labels)
        return f"top-1 the same for {same} of {len(pairs)}, scores at most {apart:.3f} apart"
    return f"equal for {sum(a == b for a, b in pairs)} of {len(pairs)}"


def _run(model: LoadedModel, items: list[Any], parameters: Any) -> list[Any]:
    batches = range(0, len(items), model.max_size)
    return [
        answer
        for start in batches
        for answer in run_items(model.handler, items[start : start + model.max_size], parameters)
    ]


def _vector(output: Any) -> list[float]:
    """The first list of numbers in it; empty if there is none, or if it is about something else."""
    if _best(output):
        return []
    return next((found for found in _lists(output) if found and all(isinstance(x, int | float) for x in found)), [])


def _lists(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, list):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _lists(inner)


def _best(output: Any) -> tuple[str, float] | None:
    """The first object with a label and a score: ranked labels begin with the best."""
    if isinstance(output, dict) and {"label", "score"} <= output.keys():
        return str(output["label"]), float(output["score"])
    inner = output.values() if isinstance(output, dict) else output if isinstance(output, list) else ()
    return next((found for found in map(_best, inner) if found), None)


def _cosine(a: list[float], b: list[float]) -> float:
    if len(a) != len(b):
        return 0.0
    norm = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0
