"""The tables and the plot of benchmarks/replicas.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import page

PARTS = {"api": "API", "workers": "workers", "redis": "Redis", "client": "callers"}
LOADS = {
    "single": "one item a request, 250 ms a batch",
    "lists of 8": "eight items a request, 250 ms a batch",
    "slow device": "one item a request, 1 s a batch",
    "no-op": "one item a request, a model that does nothing",
}
GOOD = 0.9  # what is asked of 8 workers


def of(data: dict[str, Any], part: str, load: str) -> list[dict[str, Any]]:
    """Its rows."""
    return [row for row in data["rows"] if row["part"] == part and row["load"] == load]


def efficiency(rows: Sequence[dict[str, Any]]) -> list[float]:
    """What a worker does of what one alone does, by row; the first row is the one to compare with."""
    each = [row["items_per_s"] / row["workers"] for row in rows]
    return [rate / each[0] for rate in each]


def report(data: dict[str, Any]) -> str:
    """A table for each load over the workers, then those over the API processes."""
    parts = []
    for load, told in LOADS.items():
        if rows := of(data, "workers", load):
            parts += [f"**Workers: {told}**", _workers(rows)]
    for load, told in LOADS.items():
        if rows := of(data, "apis", load):
            parts += [f"**API processes, {rows[0]['workers']:.0f} workers: {told}**", _apis(rows)]
    most = max(row["client_cores"] for row in data["rows"])
    rounds = max(len(rows) for rows in data["rounds"])
    parts.append(f"Rounds: {rounds}, medians of them. The callers used {most:.2f} cores at most.")
    return "\n\n".join(parts)


def _workers(rows: Sequence[dict[str, Any]]) -> str:
    head = ["workers", "items/s", "of the devices' own", "efficiency", "items a batch", "devices busy", "p50 / p95 ms"]
    lines = []
    for row, share in zip(rows, efficiency(rows), strict=True):
        own = row["items_per_s"] / row["limit"]
        told = [f"{row['workers']:.0f}", f"{row['items_per_s']:,.0f}", f"{own:.2f}", f"**{share:.2f}**"]
        told += [f"{row['batch']:.1f}", f"{row['busy']:.0%}", f"{row['p50_ms']:,.0f} / {row['p95_ms']:,.0f}"]
        lines.append(told + _cpu(row))
    return page.table([*head, *_CPU_HEAD], lines)


def _apis(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        told = [f"{row['apis']:.0f}", f"**{row['items_per_s']:,.0f}**", f"{row['p50_ms']:,.0f} / {row['p95_ms']:,.0f}"]
        lines.append(told + _cpu(row))
    return page.table(["API processes", "items/s", "p50 / p95 ms", *_CPU_HEAD], lines)


_CPU_HEAD = [f"{name} us" for name in PARTS.values()]
_CPU_HEAD += ["cores used", "of them API", "Redis", "foreign cores", "scripts"]


def _cpu(row: dict[str, Any]) -> list[str]:
    cores = sum(row[f"{part}_cores"] for part in PARTS)
    told = [f"{row[f'{part}_us']:.0f}" for part in PARTS]
    told += [f"{value:.2f}" for value in (cores, row["api_cores"], row["redis_cores"], row["foreign_cores"])]
    return [*told, f"{row['scripts']:.2f}"]


def draw(data: dict[str, Any], file: Path) -> None:
    """Items a second over workers beside what the devices could do, and the efficiency."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "replicas"  # the same figures, the same file
    figure, (rates, shares, cores) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for load, told in LOADS.items():
        if not (rows := of(data, "workers", load)):
            continue
        count = [row["workers"] for row in rows]
        (line,) = rates.plot(count, [row["items_per_s"] for row in rows], marker="o", label=told)
        rates.plot(count, [row["limit"] for row in rows], linestyle=":", color=line.get_color())
        shares.plot(count, efficiency(rows), marker="o", color=line.get_color())
        used = [sum(row[f"{part}_cores"] for part in PARTS) for row in rows]
        cores.plot(count, used, marker="o", color=line.get_color())
    shares.axhline(GOOD, color="grey", linewidth=0.6)
    cores.axhline(data["machine"]["cores"], color="grey", linewidth=0.6)
    rates.set(xlabel="worker processes", ylabel="items a second (dotted: the devices' own)", ylim=(0, None))
    shares.set(xlabel="worker processes", ylabel="of one worker's, each", ylim=(0, 1.1))
    cores.set(xlabel="worker processes", ylabel="cores used, callers' too (line: all there are)", ylim=(0, None))
    rates.legend(frameon=False, fontsize=8)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
