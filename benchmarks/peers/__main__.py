"""`python -m benchmarks.peers` (`make bench-peers`): the figures of docs/benchmarks/peers.md.

Every round goes over all systems, each started for it and stopped after it, so that drift of the machine hits all and
only one has it at a time. `--sweep` tries the variants of each; `--quick` tells whether the benchmark works.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import forward, page
from benchmarks.levels import Bench, Level, quietly
from benchmarks.machine import describe
from benchmarks.peers import measure, report
from benchmarks.peers.measure import Step
from benchmarks.peers.picture import draw
from benchmarks.peers.running import MODELS, ROOT, python, started
from benchmarks.peers.systems import OURS, SYSTEMS, System
from benchmarks.stack import Stack
from benchmarks.texts import SEED, fingerprint, texts

COMMAND, SWEEP = "make bench-peers", "make bench-peers ARGS=--sweep"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. `echo` comes from a start of its own, without the model."""

    steps: tuple[Step, ...]
    echo: tuple[Step, ...] = ()


FULL = Plan(
    (
        Step("lone", Level("c1", 1, 64)),
        Step("many", Level("c8", 8, 128)),
        Step("many", Level("c32", 32, 192)),
        Step("many", Level("c128", 128, 256), then=64),
        Step("bulk", Level("32 texts, c8", 8, 512, per_request=32)),
    ),
    (Step("lone", Level("c1", 1, 200)), Step("many", Level("c32", 32, 800))),
)
SHORT = Plan(
    (
        Step("lone", Level("c1", 1, 24)),
        Step("many", Level("c8", 8, 48)),
        Step("many", Level("c32", 32, 64)),
        Step("many", Level("c128", 128, 128), then=16),
        Step("bulk", Level("32 texts, c8", 8, 256, per_request=32)),
    ),
)
QUICK = Plan(
    (
        Step("lone", Level("c1", 1, 8)),
        Step("many", Level("c32", 32, 64), then=8),
        Step("bulk", Level("32 texts, c8", 8, 256, per_request=32)),
    ),
    (Step("lone", Level("c1", 1, 20)), Step("many", Level("c32", 32, 64))),
)


def main() -> int:
    """0; the figures tell. Raises RuntimeError for a wrong answer or a server that does not start."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is stopped first
    systems = [SYSTEMS[name] for name in options.systems]
    missing = [system.name for system in systems if system.name != OURS and not python(system).exists()]
    if missing:
        raise SystemExit(f"no environment for {', '.join(missing)}: `{COMMAND}` makes them")
    made = texts(max(step.level.sentences for step in FULL.steps))
    model = forward.load(MODELS, "bert", "cpu")
    bench = Bench(model, "bert", Stack("", 0), made, 16, 0 if options.quick else options.patience)
    data: dict[str, Any] = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": page.command(COMMAND),
        "machine": describe(),
        "texts": {"count": len(made), "seed": SEED, "sha256": fingerprint(made)},
        "packages": {system.name: report.packages(system) for system in systems if system.name != OURS},
    }
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        bench.size = data["pass_size"] = _best_size(bench, (16,) if options.quick else (8, 16, 32))
        run = _sweep if options.sweep else _rounds
        run(bench, systems, Path(folder), options, data)
    return 0


def _best_size(bench: Bench, sizes: Sequence[int]) -> int:
    """Texts a pass of the in-process forward."""
    forward.run(bench.model, bench.texts[:32], 8)
    rates = {}
    for size in sizes:
        found, _, _ = quietly(bench, partial(forward.run, bench.model, bench.texts[:192], size))
        rates[size] = found.rate
    print("in process:", ", ".join(f"{rate:.1f}/s with passes of {size}" for size, rate in rates.items()), flush=True)
    return max(rates, key=lambda size: rates[size])


def _rounds(
    bench: Bench, systems: list[System], folder: Path, options: argparse.Namespace, data: dict[str, Any]
) -> None:
    plan, rounds = (QUICK, 1) if options.quick else (FULL, options.rounds)
    data["variants"] = {system.name: dict(system.best) for system in systems}
    data["rounds"] = []
    for number in range(rounds):
        found: dict[str, Any] = {}
        turn = number % len(systems)
        for system in systems[turn:] + systems[:turn]:  # none is always the first after another
            found[system.name] = _one(bench, system, plan, folder / f"{number}{system.name}")
        data["rounds"].append(found)
        if not options.quick:  # after each: they take ten minutes
            page.keep(options.out / "peers.json", data)
            draw(options.out / "peers.png", report.ratios(data), f"{data['when'][:10]}, {data['machine']['cpu']}")
            page.put(options.out / "peers.md", COMMAND, report.whole(data))
    print(report.whole(data))


def _one(bench: Bench, system: System, plan: Plan, folder: Path) -> dict[str, Any]:
    """One round of one system: started once for each variant that its levels need, and likewise as an echo."""
    found: dict[str, Any] = {"startup_s": [], "levels": [], "echo": []}
    for number, (variant, steps) in enumerate(_starts(system, plan.steps)):
        for kind, rows in _levels(bench, system, variant, steps, folder / str(number)).items():
            found[kind] += rows
    for number, (variant, steps) in enumerate(_starts(system, plan.echo) if system.echoes else ()):
        with started(system, system.variants[variant], folder / f"echo{number}", echo=True) as side:
            measure.warm(bench, side)
            for step in steps:
                row = measure.echo(bench, side, step.level) | {"variant": variant}
                print(report.echo_line(system.title, row), flush=True)
                found["echo"].append(row)
    return found


def _starts(system: System, steps: Sequence[Step]) -> list[tuple[str, list[Step]]]:
    """Each variant that the steps need, with its steps."""
    needed = dict.fromkeys(system.best[step.group] for step in steps)
    return [(variant, [step for step in steps if system.best[step.group] == variant]) for variant in needed]


def _levels(bench: Bench, system: System, variant: str, steps: Sequence[Step], folder: Path) -> dict[str, Any]:
    """One start of one variant."""
    found: dict[str, Any] = {"startup_s": [], "levels": []}
    with started(system, system.variants[variant], folder) as side:
        found["startup_s"].append(side.startup_s)
        measure.warm(bench, side)
        for step in steps:
            for row in measure.measure(bench, side, step):
                row["variant"] = variant
                print(report.line(system.title, row), flush=True)
                found["levels"].append(row)
    return found


def _sweep(
    bench: Bench, systems: list[System], folder: Path, options: argparse.Namespace, data: dict[str, Any]
) -> None:
    """Every variant once over a few texts of each level. What was found of the systems that are not asked for stays."""
    plan = QUICK if options.quick else SHORT
    kept = options.out / "peers-sweep.json"
    data["sweep"] = json.loads(kept.read_text())["sweep"] if kept.exists() and not options.quick else {}
    for system in systems:
        if len(system.variants) < 2:
            continue
        data["sweep"][system.name] = {}
        for number, variant in enumerate(system.variants):
            place = folder / f"{number}{system.name}"
            data["sweep"][system.name][variant] = _levels(bench, system, variant, plan.steps, place)
    data["sweep"] = {name: data["sweep"][name] for name in SYSTEMS if name in data["sweep"]}
    print(report.sweep(data["sweep"]))
    if not options.quick:
        page.keep(kept, data)
        made = f"Made {data['when']}. {page.machine(data['machine'])}"
        page.put(options.out / "peers.md", SWEEP, f"{made}\n\n{report.sweep(data['sweep'])}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="The figures of peers.md")
    parser.add_argument("--quick", action="store_true", help="a smoke test: one round, few texts, nothing written")
    parser.add_argument("--sweep", action="store_true", help="try all variants of each peer, shortly")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all systems")
    parser.add_argument("--patience", type=float, default=300, help="seconds lost to other work on the machine")
    parser.add_argument("--systems", type=_names, default=list(SYSTEMS), help=f"of {','.join(SYSTEMS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="where peers.md lies")
    return parser.parse_args()


def _names(told: str) -> list[str]:
    names = told.split(",")
    if unknown := set(names) - set(SYSTEMS):
        raise argparse.ArgumentTypeError(f"no such system: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
