"""`python -m benchmarks.scaling` (`make bench-scaling`): the figures of docs/benchmarks/scaling.md.

Part by part, each kept in scaling.json beside the others: `measure` takes the service times, `pick-cpu` and `pick-gpu`
pick a rule each, `cpu` and `gpu` set it beside others, `lazy` picks the cool-down; `redis` is for
docs/scaling.md. All but the first and the last are arithmetic, the same on any machine."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import page
from benchmarks.machine import Meter, describe
from benchmarks.scaling import picture, report
from benchmarks.scaling.cases import ASSUMED
from benchmarks.scaling.compare import compare, lazy, pick
from benchmarks.scaling.measure import batch_seconds
from benchmarks.scaling.policies import Rule
from benchmarks.scaling.store import many_workers

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "make bench-scaling"
PARTS = ("measure", "pick-cpu", "pick-gpu", "cpu", "gpu", "lazy", "redis")


def main() -> int:
    """0; the figures tell."""
    plan = _parse()
    file = plan.out / "benchmarks" / "scaling.json"
    data: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for part in plan.parts.split(","):
        begun, meter = perf_counter(), Meter()
        data[part] = {
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **_make(part, data),
        }
        data[part] |= {"took_s": round(perf_counter() - begun, 1)}
        if part in ("measure", "redis"):
            data[part] |= {"foreign_cores": round(meter.read().foreign, 3), "machine": describe()}
        page.keep(file, data)
    if all(part in data for part in PARTS):
        picture.draw(data, file.parent)
        page.put(file.with_suffix(".md"), COMMAND, report.text(data))
    return 0


def _make(part: str, data: dict[str, Any]) -> dict[str, Any]:
    if part == "measure":
        return batch_seconds()
    if part == "redis":
        return many_workers()
    measured = data["measure"]["seconds"]
    if part.startswith("pick-"):
        return {"assumed": ASSUMED, **pick(part.removeprefix("pick-"), measured, _say)}
    if part == "lazy":
        return lazy(measured, Rule(**data["pick-gpu"]["picked"]), _say)
    return {"rows": compare(part, measured, Rule(**data[f"pick-{part}"]["picked"]), _say)}


def _say(line: str) -> None:
    print(line, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where benchmarks/ lies")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
