"""`python -m benchmarks.limits` (`make bench-limits`): the figures of docs/benchmarks/limits.md.

What the service does where it gets hard: photographs, the tail of the latencies, memory, and what grows. Each part is
measured and kept by itself: `--only memory,clients` leaves the others' figures as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import growth, growth_page, images, memory, page, tail
from benchmarks.machine import Foreign, describe

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "make bench-limits"


@dataclass(frozen=True, slots=True)
class Part:
    """`measure` gives JSON data, of which `report` makes Markdown."""

    title: str
    measure: Callable[..., dict[str, Any]]
    report: Callable[[dict[str, Any]], str]


PARTS = {
    "images": Part("Photographs", images.measure, images.report),
    "tail": Part("The tail", tail.measure, tail.report),
    "memory": Part("Memory", memory.measure, memory.report),
    "queued": Part("Growth: jobs that wait", growth.measure_queued, growth_page.queued),
    "clients": Part("Growth: callers that wait", growth.measure_clients, growth_page.clients),
    "models": Part("Growth: models of one worker", growth.measure_models, growth_page.models),
}
GROUPS = {"growth": ("queued", "clients", "models")}


def chosen(names: str) -> list[str]:
    """The parts that `--only` names, in the order of the page; all for an empty one. Raises ValueError."""
    asked = {part for name in names.split(",") if name for part in GROUPS.get(name, (name,))}
    if unknown := sorted(asked - PARTS.keys()):
        raise ValueError(f"no such part: {', '.join(unknown)}; there are {', '.join((*PARTS, *GROUPS))}")
    return [name for name in PARTS if not asked or name in asked]


def timed(part: Part, *, quick: bool) -> dict[str, Any]:
    """A part's data, with when it was made and how many cores others used meanwhile."""
    begun, foreign = perf_counter(), Foreign()
    found = part.measure(quick=quick)
    took_s, cores = perf_counter() - begun, foreign.cores()
    return {"when": page.now(), "took_s": took_s, "foreign_cores": cores, "machine": describe(), **found}


def report(data: dict[str, Any]) -> str:
    """A section for each part that was ever measured."""
    sections = []
    for name, part in PARTS.items():
        if found := data["parts"].get(name):
            told = f"Made {found['when']}, in {found['took_s']:.0f} s; foreign cores {found['foreign_cores']:.2f}."
            told += f" {page.machine(found['machine'])}"
            sections.append(f"## {part.title}\n\n{told}\n\n{part.report(found)}")
    return "\n\n".join(sections)


def main() -> int:
    """0; the figures tell."""
    options = _parse()
    file = options.out / "benchmarks" / "limits.json"
    kept = json.loads(file.read_text()) if file.exists() and not options.quick else {}
    data: dict[str, Any] = {"parts": kept.get("parts", {})}
    for name in options.only:
        data["parts"][name] = timed(PARTS[name], quick=options.quick)
        if not options.quick:
            page.keep(file, data)
    print(report(data))
    if not options.quick:
        growth_page.draw(data["parts"], options.out / "benchmarks" / "growth.png")
        made = f"Made by `{COMMAND}`, part by part."
        page.put(options.out / "benchmarks" / "limits.md", COMMAND, f"{made}\n\n{report(data)}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description="The figures of limits.md")
    parser.add_argument("--quick", action="store_true", help="a smoke test: little of everything, nothing written")
    parser.add_argument("--only", type=chosen, default=chosen(""), help=f"some of {','.join((*PARTS, *GROUPS))}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where benchmarks/ lies")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
