"""`python -m benchmarks.run` (`make bench`; on a GPU the last part of `make gpu`): the figures of docs/benchmarks.md.

Rounds of all levels, each level between two in-process runs over the same texts, so that a machine whose speed drifts
moves both; every figure is the median of the rounds. `--quick` (one round, few texts) tells whether the benchmark
itself works, and writes nothing.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import forward, page, report
from benchmarks.figures import percentile
from benchmarks.levels import Bench, Level, lone, measure, quietly
from benchmarks.machine import describe
from benchmarks.stack import Stack, running
from benchmarks.texts import SEED, fingerprint, texts
from shared.settings import load_settings
from worker.device import Device, claim_device
from worker.models import LoadedModel

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. `sizes`: texts a predict, to choose from."""

    levels: tuple[Level, ...]
    lone: int
    sample: int
    sizes: tuple[int, ...]
    texts: int = 2000


FULL = Plan(
    levels=(
        Level("c1", 1, 128),
        Level("c8", 8, 256),
        Level("c32", 32, 384),
        Level("c128", 128, 512),
        Level("32 texts, c8", 8, 512, per_request=32),
    ),
    lone=128,
    sample=384,
    sizes=(4, 8, 16, 32),
)
# Of a device that is a hundred times as fast: a level still takes seconds.
ON_GPU = Plan(
    levels=(
        Level("c1", 1, 512),
        Level("c32", 32, 4096),
        Level("c128", 128, 8192),
        Level("c256", 256, 8192),
        Level("32 texts, c8", 8, 16384, per_request=32),
    ),
    lone=256,
    sample=4096,
    sizes=(32, 64, 128, 256),
    texts=16384,
)
QUICK = Plan(
    levels=(Level("c1", 1, 16), Level("c32", 32, 96), Level("32 texts, c8", 8, 256, per_request=32)),
    lone=16,
    sample=32,
    sizes=(8,),
)


def main() -> int:
    """0, also where a goal is missed: the figures tell. Raises RuntimeError for a wrong answer or a dead stack."""
    options = _parse()
    device = _claim()
    full = FULL if device.gpu is None else ON_GPU
    plan, rounds = (QUICK, 1) if options.quick else (full, options.rounds)
    with tempfile.TemporaryDirectory(prefix="ml-bench-") as folder:
        print("starting the service, and loading the model here too", flush=True)
        with running(Path(folder), options.models.resolve(), options.model) as stack:
            data = _measure(options, plan, rounds, stack, device)
    print(report.levels(data))
    if not options.quick:
        report.write(data, options.out)
    return 0


def _claim() -> Device:
    """The device of both sides: where it is a GPU, the service's worker takes its second place, and nobody else comes
    between."""
    device = claim_device(load_settings().model_copy(update={"gpu_slots": 2}))
    if device.gpu is not None:
        os.environ |= {"ML_DEVICE": device.gpu.uuid, "ML_GPU_SLOTS": "2"}
    return device


def _measure(options: argparse.Namespace, plan: Plan, rounds: int, stack: Stack, device: Device) -> dict[str, Any]:
    packed = forward.load(options.models, options.model, device.name)
    padded = forward.load(options.models, options.model, device.name, packed=False)
    made = texts(plan.texts)
    bench = Bench(packed, options.model, stack, made, plan.sizes[0], 0 if options.quick else options.patience)
    data: dict[str, Any] = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": page.command(report.target(device.name)),
        "device": device.name,
        "gpu": None if device.gpu is None else asdict(device.gpu),
        "machine": describe(),
        "texts": _describe_texts(packed, made),
    }
    print(report.texts(data["texts"]), flush=True)
    data["in_process"] = _in_process(bench, padded, plan)
    print(report.in_process(data["in_process"]), flush=True)
    bench.size = data["in_process"]["best_size"]
    # Connections, caches, the allocators' first growth: on both sides, not counted.
    measure(replace(bench, patience_s=0), Level("warm-up", 8, 64))
    data["rounds"] = [_round(bench, plan, number) for number in range(1, rounds + 1)]
    data["padding_share"] = forward.padding_share(packed, forward.token_counts(packed, made), bench.size)
    data["patience_left_s"] = bench.patience_s
    return data


def _round(bench: Bench, plan: Plan, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {"lone": lone(bench, plan.lone), "levels": []}
    print(f"round {number}: {report.lone_line(found['lone'])}", flush=True)
    for level in plan.levels:
        row = measure(bench, level)
        print(f"round {number}: {report.line(row)}", flush=True)
        found["levels"].append(row)
    return found


def _in_process(bench: Bench, padded: LoadedModel, plan: Plan) -> dict[str, Any]:
    """Which size of a pass is best here, and what padding would cost. The service idles meanwhile."""
    sample = bench.texts[: plan.sample]
    counts = forward.token_counts(padded, sample)
    forward.run(bench.model, sample[:32], 8)

    def row(model: LoadedModel, size: int) -> dict[str, float]:
        run, usage, _ = quietly(bench, lambda: forward.run(model, sample, size))
        share = forward.padding_share(model, counts, size)
        return {"size": size, "rate": run.rate, "padding_share": share, "foreign_cores": usage.foreign}

    rows = [row(bench.model, size) for size in plan.sizes]
    return {
        "sentences": len(sample),
        "packed": not bench.model.padded,
        "rows": rows,
        "best_size": max(rows, key=lambda found: found["rate"])["size"],
        "padded_sorted": [row(padded, size) for size in (32, len(sample))],
    }


def _describe_texts(model: LoadedModel, made: list[str]) -> dict[str, Any]:
    words = [len(text.split()) for text in made]
    tokens = forward.token_counts(model, made)
    return {
        "count": len(made),
        "seed": SEED,
        "sha256": fingerprint(made),
        "python": platform.python_version(),
        "words": {f"p{p}": percentile(words, p / 100) for p in (25, 50, 75, 95)} | {"mean": sum(words) / len(words)},
        "tokens": {f"p{p}": percentile(tokens, p / 100) for p in (25, 50, 75, 95)}
        | {"mean": sum(tokens) / len(tokens), "total": sum(tokens)},
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="The figures of docs/benchmarks.md")
    parser.add_argument("--quick", action="store_true", help="a smoke test: one round, few texts, nothing written")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all levels")
    parser.add_argument("--patience", type=float, default=300, help="seconds lost to other work on the machine")
    parser.add_argument("--models", type=Path, default=ROOT / "models.yaml", help="the models file")
    parser.add_argument("--model", default="bert", help="a text-embedding model of it")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where benchmarks.md and benchmarks/ lie")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
