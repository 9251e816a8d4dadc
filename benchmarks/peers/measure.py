"""One level of load on one system, between two in-process runs over halves of the very same texts."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson

from benchmarks import forward
from benchmarks.client import Answers, around, ask, full_load
from benchmarks.figures import percentile
from benchmarks.levels import LEAST_COSINE, Bench, Level, quietly
from benchmarks.machine import Meter, Usage
from benchmarks.peers.report import LATE
from benchmarks.peers.running import Side, paused, peak_mb
from benchmarks.peers.systems import Group

IDLE_S, WARM = 0.5, 64
ECHO = "Nothing is computed of this text."


@dataclass(frozen=True, slots=True)
class Step:
    """A level, and `then` so many lone requests with no pause after it."""

    group: Group
    level: Level
    then: int = 0


def warm(bench: Bench, side: Side) -> None:
    """Connections, caches, the allocators' first growth, and what a server learns of its model's speed; of both
    sides."""
    _ask(side, [ECHO] * WARM if side.echo else bench.texts[:WARM], 8)
    if not side.echo:
        forward.run(bench.model, bench.texts[: bench.size], bench.size)


def measure(bench: Bench, side: Side, step: Step) -> list[dict[str, Any]]:
    """The level, and the lone requests after it; JSON data. `bench.stack` is not looked at. Raises RuntimeError for a
    wrong answer."""
    bench_here = replace(bench, stack=side.stack)
    level = step.level
    texts = bench.texts[: level.sentences]
    half = len(texts) // 2

    def load() -> tuple[Answers, Usage, Answers]:
        meter = Meter(*side.stack.pids)
        answers = ask(side.url, around(_bodies(side, texts, level.per_request), level.connections), level.connections)
        usage = meter.read()
        return answers, usage, _ask(side, bench.texts[: step.then], 1)

    idle = Meter(*side.stack.pids)
    time.sleep(IDLE_S)
    idling = idle.read()
    with paused(side):
        before, usage_before, _ = quietly(bench_here, lambda: forward.run(bench.model, texts[:half], bench.size))
    (answers, usage, lone), whole, tries = quietly(bench_here, load)
    with paused(side):
        after, usage_after, _ = quietly(bench_here, lambda: forward.run(bench.model, texts[half:], bench.size))
    bench.patience_s = bench_here.patience_s
    vectors = np.concatenate([before.vectors, after.vectors])
    groups = np.split(vectors, level.sentences // level.per_request)
    limit = len(texts) / (before.took_s + after.took_s)
    peak, shared = peak_mb(side.stack)
    disturbed = {
        "foreign_cores": whole.foreign,
        "foreign_cores_limit": max(usage_before.foreign, usage_after.foreign),
        "tries": tries,
    }
    stretch = full_load(answers, level.connections)
    rate = stretch.rate * level.per_request
    row = {
        **_latency(level, stretch.latencies_s, rate),
        "limit_per_s": limit,
        "limit_runs": [before.rate, after.rate],
        "ratio": rate / limit,
        "stack_cpu_s_per_1000": usage.stack_s / (len(answers.statuses) * level.per_request) * 1000,
        "limit_cpu_s_per_1000": (usage_before.own_s + usage_after.own_s) / level.sentences * 1000,
        "client_cores": usage.own_s / usage.wall_s,
        "idle_stack_cores": idling.stack_s / idling.wall_s,
        "peak_rss_mb": peak,
        "pss_mb": shared,
        "least_cosine": _check(side, level.name, answers, np.concatenate(around(groups, level.connections))),
        **disturbed,
    }
    if not step.then:
        return [row]
    name = f"{LATE} {level.name}"
    told = _latency(Level(name, 1, step.then), lone.latencies_s, step.then / lone.wall_s)
    return [row, {**told, "least_cosine": _check(side, name, lone, vectors[: step.then]), **disturbed}]


def echo(bench: Bench, side: Side, level: Level) -> dict[str, Any]:
    """The level with one short text and no model. Raises RuntimeError for a wrong answer."""
    bench_here = replace(bench, stack=side.stack)
    texts = [ECHO] * level.sentences
    answers, usage, tries = quietly(bench_here, lambda: _ask(side, texts, level.connections))
    bench.patience_s = bench_here.patience_s
    for status, body in zip(answers.statuses, answers.bodies, strict=True):
        if status != 200 or ECHO.encode() not in body:
            raise RuntimeError(f"{side.system.name}, echo: answered {status}: {body[:500]!r}")
    return {
        **_latency(level, answers.latencies_s, level.sentences / answers.wall_s),
        "stack_cpu_ms": usage.stack_s / level.sentences * 1000,
        "client_cores": usage.own_s / usage.wall_s,
        "foreign_cores": usage.foreign,
        "foreign_cores_limit": 0.0,
        "tries": tries,
    }


def _ask(side: Side, texts: list[str], connections: int) -> Answers:
    if not texts:
        return Answers()
    return ask(side.url, _bodies(side, texts, 1), connections)


def _bodies(side: Side, texts: list[str], size: int) -> list[Any]:
    make = side.system.echo_body if side.echo else side.system.body
    return [make(texts[start : start + size]) for start in range(0, len(texts), size)]


def _latency(level: Level, latencies_s: list[float], rate: float) -> dict[str, Any]:
    return {
        "level": level.name,
        "sentences": level.sentences,
        "sentences_per_s": rate,
        **{f"p{share}_ms": percentile(latencies_s, share / 100) * 1000 for share in (50, 95)},
    }


def _check(side: Side, level: str, answers: Answers, vectors: Any) -> float:
    """The least cosine to the in-process vectors. Raises RuntimeError where one differs, or an answer is none."""
    made: list[Any] = []
    for status, body in zip(answers.statuses, answers.bodies, strict=True):
        if status != 200:
            raise RuntimeError(f"{side.system.name}, {level}: answered {status}: {body[:500]!r}")
        made += side.system.vectors(orjson.loads(body))
    cosine = forward.alike(vectors, np.array(made, np.float32))
    if cosine < LEAST_COSINE:
        raise RuntimeError(f"{side.system.name}, {level}: a vector differs from the in-process one: cosine {cosine}")
    return cosine
