"""One level of load on the service, and the in-process forward over the very same texts around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import orjson

from benchmarks import forward
from benchmarks.client import Stretch, around, ask, full_load
from benchmarks.figures import FOREIGN_LIMIT, mean_batch, median, percentile
from benchmarks.machine import Meter, Usage
from benchmarks.stack import Stack
from worker.models import LoadedModel

LOOK_S = 0.5
LEAST_COSINE = 0.9999
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Level:
    """`sentences` in requests of `per_request`, `connections` at once."""

    name: str
    connections: int
    sentences: int
    per_request: int = 1


@dataclass(slots=True)
class Bench:
    """What every level needs. `size`: texts a predict of the in-process forward."""

    model: LoadedModel
    name: str
    stack: Stack
    texts: list[str]
    size: int
    patience_s: float  # for other work to pause, and for measures that it spoilt; shared by all, and used up


def quietly(bench: Bench, action: Callable[[], T]) -> tuple[T, Usage, int]:
    """The result of the first try that no other work on the machine disturbed, else of the least disturbed one when
    the patience is used up; with its usage and the number of tries."""
    runs: list[tuple[Usage, T]] = []
    while not runs or (bench.patience_s > 0 and runs[-1][0].foreign > FOREIGN_LIMIT):
        _wait_for_quiet(bench)
        meter = Meter(*bench.stack.pids)
        result = action()
        usage = meter.read()
        runs.append((usage, result))
        if usage.foreign > FOREIGN_LIMIT:
            bench.patience_s -= usage.wall_s
    usage, result = min(runs, key=lambda run: run[0].foreign)
    return result, usage, len(runs)


def _wait_for_quiet(bench: Bench) -> None:
    while bench.patience_s > 0:
        meter = Meter(*bench.stack.pids)
        time.sleep(LOOK_S)
        if meter.read().foreign <= FOREIGN_LIMIT:
            return
        bench.patience_s -= LOOK_S


def measure(bench: Bench, level: Level) -> dict[str, Any]:
    """One level between two in-process runs over its texts; JSON data. Neither side's rate counts what idles at an end.
    Raises RuntimeError for a wrong answer."""
    texts = bench.texts[: level.sentences]
    bodies = around(_bodies(bench, level), level.connections)
    before, usage_before, _ = quietly(bench, lambda: forward.run(bench.model, texts, bench.size))
    answers, usage, tries = quietly(bench, lambda: ask(f"{bench.stack.url}/inference", bodies, level.connections))
    after, usage_after, _ = quietly(bench, lambda: forward.run(bench.model, texts, bench.size))
    seen = [_read(status, body) for status, body in zip(answers.statuses, answers.bodies, strict=True)]
    groups = np.split(before.vectors, level.sentences // level.per_request)
    made = np.array([vector for vectors, _ in seen for vector in vectors], np.float32)
    cosine = forward.alike(np.concatenate(around(groups, level.connections)), made)
    if cosine < LEAST_COSINE:
        raise RuntimeError(f"{level.name}: an embedding differs from the in-process one: cosine {cosine}")
    limit = (before.rate + after.rate) / 2
    stretch = full_load(answers, level.connections)
    rate = stretch.rate * level.per_request
    timings = [timing for _, timing in seen[level.connections : -level.connections]]
    return {
        "level": level.name,
        "sentences": level.sentences,
        "sentences_per_s": rate,
        "limit_per_s": limit,
        "limit_runs": [before.rate, after.rate],
        "ratio": rate / limit,
        **_latency(stretch),
        "mean_batch": mean_batch([timing["batch_size"] for timing in timings for _ in range(level.per_request)]),
        **{key: median([timing[key] for timing in timings]) for key in ("queue_ms", "prepare_ms", "predict_ms")},
        "stack_cpu_s_per_1000": usage.stack_s / len(made) * 1000,
        "limit_cpu_s_per_1000": (usage_before.own_s + usage_after.own_s) / (2 * level.sentences) * 1000,
        "client_cores": usage.own_s / usage.wall_s,
        "idle_stack_cores": max(u.stack_s / u.wall_s for u in (usage_before, usage_after)),
        "foreign_cores": usage.foreign,
        "foreign_cores_limit": max(usage_before.foreign, usage_after.foreign),
        "tries": tries,
        "least_cosine": cosine,
    }


def lone(bench: Bench, sentences: int) -> dict[str, Any]:
    """One text at a time: the service's latency against prepare and predict of the same texts here, before and
    after."""
    texts = bench.texts[:sentences]
    level = Level("lone", 1, sentences)
    before, usage_before, _ = quietly(bench, lambda: forward.lone(bench.model, texts))
    answers, usage, tries = quietly(bench, lambda: ask(f"{bench.stack.url}/inference", _bodies(bench, level), 1))
    after, usage_after, _ = quietly(bench, lambda: forward.lone(bench.model, texts))
    bare = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
    timings = [_read(status, body)[1] for status, body in zip(answers.statuses, answers.bodies, strict=True)]
    bare_p50, served_p50 = median(bare) * 1000, median(answers.latencies_s) * 1000
    return {
        "bare_p50_ms": bare_p50,
        "served_p50_ms": served_p50,
        "over_ms": served_p50 - bare_p50,
        "over_ms_by_text": median([(a - b) * 1000 for a, b in zip(answers.latencies_s, bare, strict=True)]),
        **{key: median([timing[key] for timing in timings]) for key in ("queue_ms", "prepare_ms", "predict_ms")},
        "foreign_cores": usage.foreign,
        "foreign_cores_limit": max(usage_before.foreign, usage_after.foreign),
        "tries": tries,
    }


def _bodies(bench: Bench, level: Level) -> list[Any]:
    texts, size = bench.texts[: level.sentences], level.per_request
    if size == 1:
        return [{"model_type": bench.name, "data": {"text": text}} for text in texts]
    groups = [texts[start : start + size] for start in range(0, len(texts), size)]
    return [{"model_type": bench.name, "data": {"texts": group}} for group in groups]


def _read(status: int, body: bytes) -> tuple[Sequence[Sequence[float]], dict[str, Any]]:
    """Embeddings and timing of one answer."""
    if status != 200:
        raise RuntimeError(f"answered {status}: {body[:500]!r}")
    answer = orjson.loads(body)
    output = answer["output"]
    return output.get("embeddings") or [output["embedding"]], answer["timing"]


def _latency(stretch: Stretch) -> dict[str, float]:
    return {f"p{share}_ms": percentile(stretch.latencies_s, share / 100) * 1000 for share in (50, 95)}
