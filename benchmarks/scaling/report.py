"""The tables of docs/benchmarks/scaling.md."""

from __future__ import annotations

from typing import Any

from benchmarks import page
from benchmarks.scaling.cases import LATE_S, service

SAME = ("wait_s", "busy", "down_window_s")  # what rules of the grid differ in
NAMES = {"cpu": "CPU workers", "gpu": "GPU workers", "lazy": "A lazy model on a GPU"}


def text(data: dict[str, Any]) -> str:
    """All of it."""
    measured = data["measure"]
    told = f"Service times taken {measured['when']} (foreign cores {measured['foreign_cores']:.2f})."
    parts = [
        f"{told} {page.machine(measured['machine'])}",
        _service(data),
        _picked(data),
        *(_rows(kind, data[kind]["rows"]) for kind in NAMES),
        _grid(data),
        _cooldowns(data["lazy"]),
        _store(data["redis"]),
    ]
    return "\n\n".join(parts)


def _picked(data: dict[str, Any]) -> str:
    cpu, gpu, last = data["pick-cpu"]["picked"], data["pick-gpu"]["picked"], data["lazy"]["picked"]
    lines = [[f"`{name}`", _value(cpu[name]), _value(gpu[name])] for name in SAME]
    lines += [[f"`{name}`", _value(last[name]), _value(last[name])] for name in ("cooldown_s", "polling_s")]
    return "**Picked**:\n\n" + page.table(["", "CPU workers", "GPU workers"], lines)


def _value(value: Any) -> str:
    return "off" if value is None else f"{value:g}" if isinstance(value, float) else str(value).lower()


def _service(data: dict[str, Any]) -> str:
    measured = data["measure"]["seconds"]
    assumed = data["pick-gpu"]["assumed"]["gpu_seconds"]
    lines = [
        ["texts a batch, measured", *measured],
        ["ms a batch", *(f"{took * 1000:.0f}" for took in measured.values())],
    ]
    more = [["jobs a batch, **assumed**", *assumed], ["ms a batch", *(f"{t * 1000:.0f}" for t in assumed.values())]]
    rates = {kind: service(kind, measured).capacity for kind in ("cpu", "gpu")}
    told = f"One worker's capacity: CPU {rates['cpu']:.2f} jobs/s (of 8 texts), GPU {rates['gpu']:.2f} jobs/s."
    return f"{page.table(lines[0], lines[1:])}\n\n{page.table(more[0], more[1:])}\n\n{told}"


def _rows(kind: str, rows: dict[str, Any]) -> str:
    ours = next(iter(rows.values()))["hours"]
    unit = "GPU-hours" if kind != "cpu" else "worker-hours"
    head = ["rule", "wait p50 s", "p99 s", f"later than {LATE_S:g} s", f"{unit} a day", "beside ours", "most workers"]
    lines = [
        [
            f"**{name}**" if name.startswith("ours") and "age" not in name else name,
            f"{row['p50_s']:.2f}",
            f"{row['p99_s']:.1f}",
            f"{row['late']:,} ({row['late_share']:.2%})",
            f"{row['hours']:.1f}",
            f"x {row['hours'] / ours:.2f}",
            str(row["most"]),
        ]
        for name, row in rows.items()
    ]
    jobs = next(iter(rows.values()))["jobs"]
    return f"### {NAMES[kind]}\n\n{jobs:,} jobs on three days.\n\n{page.table(head, lines)}"


def _grid(data: dict[str, Any]) -> str:
    head = [*(f"`{name}`" for name in SAME), "CPU: late", "hours", "GPU: late", "hours"]
    lines = []
    for cpu, gpu in zip(data["pick-cpu"]["grid"], data["pick-gpu"]["grid"], strict=True):
        cells = [_value(cpu["rule"][name]) for name in SAME]
        for kind, row in (("cpu", cpu), ("gpu", gpu)):
            mark = "**" if row["rule"] == data[f"pick-{kind}"]["picked"] else ""
            cells += [f"{mark}{_late(row)}{mark}", f"{mark}{_hours(row)}{mark}"]
        lines.append(cells)
    return f"### What they were picked from\n\nOne day, another than those above.\n\n{page.table(head, lines)}"


def _cooldowns(found: dict[str, Any]) -> str:
    lines = []
    for row in found["grid"]:
        mark = "**" if row["rule"] == found["picked"] else ""
        told = [_value(row["rule"]["cooldown_s"]), _value(row["rule"]["polling_s"]), _late(row), _hours(row)]
        lines.append([f"{mark}{cell}{mark}" for cell in told])
    return page.table(["`cooldown_s`", "`polling_s`", "lazy: late", "GPU-hours"], lines)


def _store(found: dict[str, Any]) -> str:
    rows = [[f"{row['workers']:,}", f"{row['heartbeat_us']:.0f}", f"{row['look_us']:,.0f}"] for row in found["rows"]]
    drains = [[str(row["lists"]), f"{row['us']:.0f}"] for row in found["drains"]]
    made = f"Made {found['when']}; foreign cores {found['foreign_cores']:.2f}. {page.machine(found['machine'])}"
    first = page.table(["workers", "Redis us a heartbeat", "Redis us a look at all by an API process"], rows)
    second = page.table(["lists that a worker looks at", "Redis us a drain that finds nothing"], drains)
    return f"### Many workers\n\n{made}\n\n{first}\n\n{second}"


def _late(row: dict[str, Any]) -> str:
    return f"{row['late_share']:.2%}"


def _hours(row: dict[str, Any]) -> str:
    return f"{row['hours']:.1f}"
