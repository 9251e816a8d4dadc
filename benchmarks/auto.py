"""`python -m benchmarks.auto`: what `max_cost: auto` finds, beside every budget set by hand; and what another dtype,
int8 and torch.compile are worth. In process: prepare, then `predict` in batches as the worker cuts them."""

from __future__ import annotations

import argparse
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks import forward, page
from benchmarks.figures import median
from benchmarks.machine import Meter
from benchmarks.texts import SEED, texts
from examples.demo.material import photographs
from shared.errors import ConfigError
from worker.calibrate import ladder
from worker.compare import difference
from worker.inprocess import plain
from worker.models import LoadedModel
from worker.streams import choices

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "make bench-auto"
MOST_TOKENS = 8192
ENOUGH_S = 10.0  # of one variant's rounds
FOREIGN_LIMIT, TRIES = 0.12, 3  # cores that other work may take, else a measure is repeated
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "quantize: int8": {"quantize": "int8"},
    "dtype: bfloat16": {"dtype": "bfloat16"},
    "compile: true": {"compile": True},
}


def pictures(count: int, seed: int = SEED) -> list[bytes]:
    """PNG crops of photographs that ship with scikit-image and scikit-learn, the same for a seed."""
    choose = random.Random(seed)
    whole = [Image.open(photograph.path).convert("RGB") for photograph in photographs()]
    made = []
    for _ in range(count):
        image = choose.choice(whole)
        side = choose.randint(min(image.size) // 2, min(image.size))
        left, top = choose.randint(0, image.width - side), choose.randint(0, image.height - side)
        out = io.BytesIO()
        image.crop((left, top, left + side, top + side)).resize((256, 256)).save(out, "PNG")
        made.append(out.getvalue())
    return made


def items(name: str, count: int) -> list[dict[str, Any]]:
    """The work of a model of models.yaml."""
    return [{"text": text} for text in texts(count)] if name == "bert" else [{"image": x} for x in pictures(count)]


def batches(costs: Sequence[int], max_cost: int, max_size: int) -> Iterator[range]:
    """Runs of places that a packed or unpadded model's batches have: in order, as many as fit."""
    start = total = 0
    for place, cost in enumerate(costs):
        if place > start and (total + cost > max_cost or place - start >= max_size):
            yield range(start, place)
            start, total = place, 0
        total += cost
    yield range(start, len(costs))


def run(model: LoadedModel, work: list[Any], budget: int) -> dict[str, float]:
    """All of `work` (as prepared), undisturbed if that can be had: of some tries the first with little other work on
    the machine (`foreign_cores`), or the one with the least."""
    rows: list[dict[str, float]] = []
    while len(rows) < TRIES and not any(row["foreign_cores"] <= FOREIGN_LIMIT for row in rows):
        rows.append(_run(model, work, budget))
    return min(rows, key=lambda row: row["foreign_cores"])


def _run(model: LoadedModel, work: list[Any], budget: int) -> dict[str, float]:
    handler = model.handler
    handler.use_budget(budget)
    plan = list(batches([one.cost for one in work], budget, model.max_size))
    meter = Meter()
    _, took_s = forward.each(model, plan, lambda places: handler.predict([work[place].item for place in places]))
    used = meter.read()
    return {
        "rate": len(work) / took_s,
        "batch_ms": 1000 * took_s * min(model.streams, len(plan)) / len(plan),
        "foreign_cores": used.foreign,
    }


def prepared(model: LoadedModel, given: list[dict[str, Any]]) -> list[Any]:
    """As `predict` takes them."""
    parameters = model.task.parameters()
    return [model.handler.prepare(model.task.item(**one), parameters) for one in given]


def answers(model: LoadedModel, work: list[Any], given: list[dict[str, Any]]) -> list[Any]:
    """What callers read, as JSON data."""
    model.handler.use_budget(model.max_cost)
    parameters, found = model.task.parameters(), []
    for places in batches([one.cost for one in work], model.max_cost, model.max_size):
        outputs = model.handler.predict([work[place].item for place in places])
        for place, output in zip(places, outputs, strict=True):
            found.append(plain(model.handler.finish([output], model.task.item(**given[place]), parameters)))
    return found


def sweep(name: str, given: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Each round loads the model anew, so that `auto` is found anew, and runs the same work with every budget, in each
    number of streams that it may have."""
    rows: dict[str, list[dict[str, float]]] = {}
    found = []
    for number in range(rounds):
        model = forward.load(ROOT / "models.yaml", name, "cpu")
        work = prepared(model, given)
        found.append(model.calibration.card() if model.calibration else {"max_cost": model.max_cost})
        cost = 256 if name == "bert" else 1
        rungs = ladder(cost, max_size=model.max_size, most_cost=MOST_TOKENS)
        counts = choices(torch.get_num_threads()) if model.handler.side_by_side else [1]
        settings = {f"{count} x {rung}": (count, rung) for count in counts for rung in rungs}
        settings["auto"] = (model.streams, model.max_cost)
        names = list(settings)
        for label in names[number % len(names) :] + names[: number % len(names)]:  # none is always the first
            model.streams, budget = settings[label]
            row = run(model, work, budget)
            rows.setdefault(label, []).append(row)
            print(f"{name} round {number + 1}: {label} {row['rate']:.1f}/s", flush=True)
    return {"rows": {label: rows[label] for label in names}, "found": found}


def variants(name: str, given: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Each with the budget that is found for it; their outputs beside float32's."""
    loaded: dict[str, LoadedModel] = {}
    told: dict[str, dict[str, Any]] = {}
    for label, fields in VARIANTS.items():
        try:
            loaded[label] = forward.load(ROOT / "models.yaml", name, "cpu", **fields)
        except ConfigError as error:
            told[label] = {"missing": str(error)}
    work = {label: prepared(model, given) for label, model in loaded.items()}
    outputs = {label: answers(model, work[label], given) for label, model in loaded.items()}
    runs: dict[str, list[dict[str, float]]] = {label: [] for label in loaded}
    for number in range(rounds):
        for label, model in loaded.items():
            if sum(len(given) / row["rate"] for row in runs[label]) < ENOUGH_S:
                runs[label].append(run(model, work[label], model.max_cost))
                print(f"{name} round {number + 1}: {label} {runs[label][-1]['rate']:.1f}/s", flush=True)
    for label, model in loaded.items():
        beside = "-" if label == "float32" else difference(outputs["float32"], outputs[label])
        told[label] = {"runs": runs[label], "max_cost": model.max_cost, "warm_s": model.warm_s, "outputs": beside}
    return told


def report(data: dict[str, Any]) -> str:
    """Each part that was measured, and when."""
    parts = []
    for name, part in ((name, part) for name in COUNTS for part in PARTS if part in data.get(name, {})):
        made = data[name][part]
        head = f"Made {made['when']} by `{made['command']}`. {page.machine(made['machine'])}"
        parts.append(f"{head}\n\n{PARTS[part][1](name, made['items'], made['found'])}")
    return "\n\n".join(parts)


def swept(name: str, count: int, found: dict[str, Any]) -> str:
    """The table of a sweep."""
    middle = {
        label: {key: median([row[key] for row in runs]) for key in runs[0]} for label, runs in found["rows"].items()
    }
    best = max(row["rate"] for label, row in middle.items() if label != "auto")
    chosen = ", ".join(f"{card.get('streams', 1)} x {card['max_cost']}" for card in found["found"])
    rows = [
        [
            f"**auto** ({chosen})" if label == "auto" else label,
            f"{row['rate']:.1f}",
            f"{row['rate'] / best:.2f}",
            f"{row['batch_ms']:.0f}",
            f"{row['foreign_cores']:.2f}",
        ]
        for label, row in middle.items()
    ]
    head = [
        f"{name}, {count} items: streams x `max_cost`",
        "items/s",
        "of the best by hand",
        "ms a batch",
        "foreign cores",
    ]
    return page.table(head, rows)


def compared(name: str, count: int, found: dict[str, Any]) -> str:
    """The table of variants."""
    rows = []
    for label, one in found.items():
        if "missing" in one:
            rows.append([f"`{label}`", "-", "-", "-", one["missing"], "-"])
            continue
        rate, foreign = (median([row[key] for row in one["runs"]]) for key in ("rate", "foreign_cores"))
        told = [str(one["max_cost"]), f"{rate:.1f}", f"{one['warm_s']:.0f}", one["outputs"], f"{foreign:.2f}"]
        rows.append([f"`{label}`", *told])
    head = [f"{name}, {count} items: version", "`max_cost` found", "items/s", "warm-up s"]
    return page.table([*head, "outputs beside `float32`'s", "foreign cores"], rows)


COUNTS = {"bert": 128, "cnn": 48}
PARTS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[..., str]]] = {
    "sweep": (sweep, swept),
    "variants": (variants, compared),
}


def main() -> int:
    """0. Raises what loading and `predict` raise."""
    options = _parse()
    file = options.out / "benchmarks" / "auto.json"
    data: dict[str, Any] = json.loads(file.read_text()) if file.exists() and not options.quick else {}
    for name in options.models:
        for part in options.parts:
            count = 8 if options.quick else COUNTS[name] // (4 if part == "variants" else 1)
            found = PARTS[part][0](name, items(name, count), 1 if options.quick else options.rounds)
            data.setdefault(name, {})[part] = page.stamp(COMMAND) | {"items": count, "found": found}
            if not options.quick:
                page.keep(file, data)
                page.put(options.out / "benchmarks" / "auto.md", COMMAND, report(data))
    print(report(data))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.auto", description="The figures of auto.md")
    parser.add_argument("--quick", action="store_true", help="a smoke test: one round, little work, nothing written")
    parser.add_argument("--rounds", type=int, default=3, help="of each budget and each variant")
    parser.add_argument("--models", nargs="+", choices=COUNTS, default=list(COUNTS), help="the others' figures stay")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="likewise")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where benchmarks/ lies")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
