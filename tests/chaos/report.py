"""What a run says: a page to read, and figures as JSON."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from benchmarks.machine import describe
from tests.chaos.driver import Result
from tests.chaos.judge import hits

_SHOWN = 10


def text(result: Result) -> str:
    """One seed."""
    figures = result.verdict.figures
    lines = [
        f"seed {result.seed}: {figures['jobs']} jobs in {result.wall_s:.0f} s, {figures['executions']} executions "
        f"({figures['ratio']:.4f} a job, at most {result.terms.ratio:.2f})",
        f"  from acceptance to answer: p50 {figures['p50_s']:.2f} s, p99 {figures['p99_s']:.2f} s, "
        f"max {figures['max_s']:.2f} s (p99 below {result.terms.late_s:.2f} s)",
        f"  {figures['calls']} calls, without an answer or refused: {_counts(figures['calls_broken'])}",
        "  at s  what          of         in flight  back in s",
    ]
    for event in result.events:
        notes = " ".join(f"{name}={value}" for name, value in event.notes.items())
        lines.append(
            f"  {event.at - result.begun:5.1f} {event.kind:13} {event.target:10} {hits(event, result.calls):9} "
            f"{event.back_s:9.1f}  {notes}"
        )
    for rule, found in result.verdict.faults.items():
        lines += [f"  FAULT {rule}: {len(found)}", *(f"    {one}" for one in found[:_SHOWN])]
        if len(found) > _SHOWN:
            lines.append(f"    ... and {len(found) - _SHOWN} more")
    lines.append(f"seed {result.seed}: " + ("RED" if result.verdict.faults else "green"))
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "none"


def write(results: Sequence[Result], path: Path) -> None:
    """The figures of all seeds."""
    arguments = " ".join(sys.argv[1:])
    data: dict[str, Any] = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": f"make chaos ARGS='{arguments}'" if arguments else "make chaos",
        "machine": describe(),
        "seeds": [_figures(result) for result in results],
    }
    path.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2) + b"\n")


def _figures(result: Result) -> dict[str, Any]:
    events = [
        {
            "kind": event.kind,
            "at_s": round(event.at - result.begun, 1),
            "in_flight": hits(event, result.calls),
            "back_s": round(event.back_s, 2),
            **event.notes,
        }
        for event in result.events
    ]
    return {
        "seed": result.seed,
        "wall_s": round(result.wall_s, 1),
        "terms": asdict(result.terms),
        **{
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in result.verdict.figures.items()
        },
        "events": events,
        "faults": dict(result.verdict.faults),
    }
