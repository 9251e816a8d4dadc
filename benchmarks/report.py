"""The figures as lines, as tables, and into docs/benchmarks.md between its two marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.figures import FOREIGN_LIMIT, median


def texts(data: dict[str, Any]) -> str:
    """What the texts are like."""
    spread = "; ".join(
        f"{kind} p25/p50/mean/p75/p95 "
        + "/".join(f"{data[kind][key]:.0f}" for key in ("p25", "p50", "mean", "p75", "p95"))
        for kind in ("words", "tokens")
    )
    return (
        f"{data['count']:,} texts, seed {data['seed']} ({data['sha256']}): {spread}; {data['tokens']['total']:,} tokens"
    )


def in_process(data: dict[str, Any]) -> str:
    """The forward alone."""
    kind = "packed" if data["packed"] else "padded, sorted"
    lines = [
        f"| in-process forward, {data['sentences']} texts | sentences/s | padding | foreign cores |",
        "|---|---|---|---|",
    ]
    named = [(f"{kind}, {row['size']} texts a pass, in their order", row) for row in data["rows"]]
    named += [(f"padded, sorted within {row['size']} texts", row) for row in data["padded_sorted"]]
    for name, row in named:
        lines.append(f"| {name} | {row['rate']:.1f} | {row['padding_share']:.0%} | {row['foreign_cores']:.2f} |")
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    """One level of one round."""
    return (
        f"{row['level']:<13} {row['sentences_per_s']:6.1f}/s  {row['ratio']:.2f} of {row['limit_per_s']:.1f}  "
        f"p50 {row['p50_ms']:.1f} p95 {row['p95_ms']:.1f} ms  batch {row['mean_batch']:.1f}  "
        f"CPU {row['stack_cpu_s_per_1000']:.1f} s/1000  client {row['client_cores']:.1%}  "
        f"idle stack {row['idle_stack_cores']:.1%}  "
        f"foreign {row['foreign_cores']:.2f}/{row['foreign_cores_limit']:.2f} (tries {row['tries']})"
    )


def lone_line(row: dict[str, Any]) -> str:
    """A lone job."""
    return (
        f"lone job: p50 {row['served_p50_ms']:.1f} ms, bare forward {row['bare_p50_ms']:.1f} ms, "
        f"over it {row['over_ms']:.1f} ms (by text {row['over_ms_by_text']:.1f}); queue {row['queue_ms']:.1f} "
        f"prepare {row['prepare_ms']:.1f} predict {row['predict_ms']:.1f}; foreign {row['foreign_cores']:.2f}"
    )


def clean(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that no other work on the machine disturbed; all, where there is no such row."""
    return [row for row in rows if max(row["foreign_cores"], row["foreign_cores_limit"]) <= FOREIGN_LIMIT] or list(rows)


def levels(data: dict[str, Any]) -> str:
    """The table: medians of the clean rounds, and the spread of the ratio over them."""
    head = ["load", "sentences/s", "in process", "ratio (min-max)", "p50 ms", "p95 ms", "mean batch", "padding"]
    head += ["CPU s per 1,000", "CPU s in process", "foreign cores", "rounds"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for rounds in zip(*(found["levels"] for found in data["rounds"]), strict=True):
        rows = clean(rounds)
        mid = {key: median([row[key] for row in rows]) for key, value in rows[0].items() if isinstance(value, float)}
        ratios = [row["ratio"] for row in rows]
        foreign = max(max(row["foreign_cores"], row["foreign_cores_limit"]) for row in rows)
        cells = [
            rows[0]["level"],
            f"{mid['sentences_per_s']:.1f}",
            f"{mid['limit_per_s']:.1f}",
            f"**{mid['ratio']:.2f}** ({min(ratios):.2f}-{max(ratios):.2f})",
            f"{mid['p50_ms']:.0f}",
            f"{mid['p95_ms']:.0f}",
            f"{mid['mean_batch']:.1f}",
            f"{data['padding_share']:.0%}",
            f"{mid['stack_cpu_s_per_1000']:.1f}",
            f"{mid['limit_cpu_s_per_1000']:.1f}",
            f"{foreign:.2f}",
            f"{len(rows)}/{len(rounds)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _lone([found["lone"] for found in data["rounds"]])])


def _lone(rounds: Sequence[dict[str, Any]]) -> str:
    rows = clean(rounds)
    over = [row["over_ms"] for row in rows]
    served, bare = (median([row[key] for row in rows]) for key in ("served_p50_ms", "bare_p50_ms"))
    foreign = max(row["foreign_cores"] for row in rows)
    return (
        f"Lone job: p50 {served:.1f} ms; the bare forward (prepare and predict) of the same texts {bare:.1f} ms; "
        f"over it **{median(over):.1f} ms** ({min(over):.1f}-{max(over):.1f}; {len(rows)}/{len(rounds)} rounds, "
        f"foreign cores {foreign:.2f})."
    )


def target(device: str) -> str:
    """What makes the figures of this device."""
    return "make bench" if device == "cpu" else "make gpu"


def write(data: dict[str, Any], folder: Path) -> None:
    """`benchmarks/cpu.json` or `gpu.json`, and the part of `benchmarks.md` between the marks of its target, in
    `folder`."""
    gpu = data["gpu"]
    page.keep(folder / "benchmarks" / f"{'cpu' if gpu is None else 'gpu'}.json", data)
    on = "" if gpu is None else f" On one {gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB."
    parts = (
        f"Made {data['when']} by `{data['command']}`. {page.machine(data['machine'])}{on}",
        f"Texts: {texts(data['texts'])}.",
        in_process(data["in_process"]),
        levels(data),
    )
    page.put(folder / "benchmarks.md", target(data["device"]), "\n\n".join(parts))
