"""The figures as lines and as the tables of docs/benchmarks/peers.md. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.figures import median
from benchmarks.peers.systems import GROUPS, SYSTEMS, System
from benchmarks.report import clean

Row = dict[str, Any]
LATE = "c1 right after"
REQUIREMENTS = Path(__file__).with_name("requirements")


def packages(system: System) -> list[str]:
    """What its environment is asked to hold, exactly."""
    lines = (REQUIREMENTS / f"{system.environment or system.name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def line(title: str, row: Row) -> str:
    """One level of one round."""
    words = f"{title:<24} {row['level']:<20} {row['sentences_per_s']:6.1f}/s "
    words += f"p50 {row['p50_ms']:.1f} p95 {row['p95_ms']:.1f} ms"
    if "ratio" in row:
        words += f"  {row['ratio']:.2f} of {row['limit_per_s']:.1f}  CPU {row['stack_cpu_s_per_1000']:.1f} s/1000"
        words += (
            f"  client {row['client_cores']:.1%} idle {row['idle_stack_cores']:.1%} RSS {row['peak_rss_mb']:.0f} MB"
        )
    return f"{words}  foreign {row['foreign_cores']:.2f}/{row['foreign_cores_limit']:.2f} (tries {row['tries']})"


def echo_line(title: str, row: Row) -> str:
    """One level without a model of one round."""
    words = f"{title:<24} {'no-op ' + row['level']:<20} {row['sentences_per_s']:6.0f}/s p50 {row['p50_ms']:.2f} ms"
    return f"{words} p95 {row['p95_ms']:.2f} ms  CPU {row['stack_cpu_ms']:.2f} ms  foreign {row['foreign_cores']:.2f}"


def gathered(rounds: Sequence[Mapping[str, Any]], system: str, kind: str) -> dict[str, list[Row]]:
    """The rows of one system in all rounds, by their level. `kind`: levels or echo."""
    found: dict[str, list[Row]] = {}
    for row in (row for one in rounds for row in one[system][kind]):
        found.setdefault(row["level"], []).append(row)
    return found


def ratios(data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By level and system's title: the median of the clean rounds."""
    found: dict[str, dict[str, float]] = {}
    for name in data["variants"]:
        for level, rows in gathered(data["rounds"], name, "levels").items():
            if "ratio" in rows[0]:
                found.setdefault(level, {})[SYSTEMS[name].title] = _mid(clean(rows), "ratio")
    return found


def whole(data: Mapping[str, Any]) -> str:
    """All that stands between the marks."""
    rounds, names = data["rounds"], list(data["variants"])
    made = f"Made {data['when']} by `{data['command']}`. {page.machine(data['machine'])}"
    texts = f"Texts: the first {data['texts']['count']}, seed {data['texts']['seed']} ({data['texts']['sha256']}); "
    texts += f"in process {data['pass_size']} of them a pass."
    return "\n\n".join(
        (
            made,
            texts,
            "![sentences a second by those of the bare forward](peers.png)",
            overview(ratios(data)),
            "**Level by level**",
            levels(rounds, names),
            "**Lone requests after a flood**: c1 with no pause after c128",
            after(rounds, names),
            "**Without a model** (one short text comes back)",
            echoes(rounds, names),
            "**The processes**",
            processes(data),
        )
    )


def overview(ratios: Mapping[str, Mapping[str, float]]) -> str:
    """The ratio of every system at every level; the best of a level is bold."""
    titles = dict.fromkeys(title for of in ratios.values() for title in of)
    rows = []
    for title in titles:
        cells = []
        for of in ratios.values():
            best = title in of and of[title] == max(of.values())
            cells.append("-" if title not in of else f"**{of[title]:.2f}**" if best else f"{of[title]:.2f}")
        rows.append([title, *cells])
    return page.table(["sentences/s by those in process", *ratios], rows)


def levels(rounds: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Medians of the clean rounds, and the spread of the ratio over them; systems beside each other at each level."""
    head = ["load", "system", "sentences/s", "in process", "ratio (min-max)", "p50 ms", "p95 ms", "CPU s per 1,000"]
    rows: dict[str, list[list[str]]] = {}
    for name in names:
        for level, found in gathered(rounds, name, "levels").items():
            if "ratio" not in found[0]:
                continue
            used = clean(found)
            spread = [row["ratio"] for row in used]
            cells = [
                SYSTEMS[name].title,
                f"{_mid(used, 'sentences_per_s'):.1f}",
                f"{_mid(used, 'limit_per_s'):.1f}",
                f"**{median(spread):.2f}** ({min(spread):.2f}-{max(spread):.2f})",
                f"{_mid(used, 'p50_ms'):.0f}",
                f"{_mid(used, 'p95_ms'):.0f}",
                f"{_mid(used, 'stack_cpu_s_per_1000'):.1f}",
                f"{len(used)}/{len(found)}",
            ]
            place = rows.setdefault(level, [])
            place.append(["" if place else level, *cells])
    return page.table([*head, "rounds"], [row for of in rows.values() for row in of])


def after(rounds: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Beside the fresh c1 of the same round (which may be of another variant)."""
    rows = []
    for name in names:
        of = gathered(rounds, name, "levels")
        fresh, late = clean(of["c1"]), clean(next(found for level, found in of.items() if level.startswith(LATE)))
        cells = [f"{_mid(used, key):.0f}" for used in (fresh, late) for key in ("p50_ms", "p95_ms")]
        rows.append([SYSTEMS[name].title, *cells])
    return page.table(["system", "c1 fresh: p50 ms", "p95 ms", "right after: p50 ms", "p95 ms"], rows)


def echoes(rounds: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Requests a second, latency and CPU; a system that cannot is left out."""
    rows = []
    for name in names:
        for level, found in gathered(rounds, name, "echo").items():
            used = clean(found)
            cells = [f"{_mid(used, 'sentences_per_s'):.0f}"]
            cells += [f"{_mid(used, key):.1f}" for key in ("p50_ms", "p95_ms", "stack_cpu_ms")]
            rows.append([SYSTEMS[name].title, level, *cells, f"{len(used)}/{len(found)}"])
    return page.table(["system", "load", "requests/s", "p50 ms", "p95 ms", "CPU ms a request", "rounds"], rows)


def processes(data: Mapping[str, Any]) -> str:
    """Start-up, memory, idle CPU, and which variant ran."""
    rows = []
    for name, best in data["variants"].items():
        found = [row for row in (row for one in data["rounds"] for row in one[name]["levels"]) if "ratio" in row]
        starts = [start for one in data["rounds"] for start in one[name]["startup_s"]]
        chosen = " / ".join(dict.fromkeys(best.values()))
        if len(set(best.values())) > 1:
            chosen = "; ".join(f"{words}: {best[group]}" for group, words in GROUPS.items())
        idle = f"{median([row['idle_stack_cores'] for row in found]):.1%}"
        peak, shared = (f"{max(row[key] for row in found):.0f}" for key in ("peak_rss_mb", "pss_mb"))
        rows.append([SYSTEMS[name].title, f"{median(starts):.1f}", peak, shared, idle, chosen])
    head = ["system", "start s", "peak RSS MB", "PSS MB", "idle CPU of a core", "variant"]
    return page.table(head, rows)


def sweep(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The ratio of every variant at every level; the best of a system is bold, what the benchmark uses has a star."""
    columns: dict[str, None] = {}
    for variants in found.values():
        for told in variants.values():
            columns |= dict.fromkeys(row["level"] for row in told["levels"] if "ratio" in row)
    rows = []
    for name, variants in found.items():
        ratio = {v: {row["level"]: row["ratio"] for row in t["levels"] if "ratio" in row} for v, t in variants.items()}
        for variant, of in ratio.items():
            best = {level for level in of if of[level] == max(other[level] for other in ratio.values())}
            cells = [f"**{of[level]:.2f}**" if level in best else f"{of[level]:.2f}" for level in columns]
            used = ", ".join(group for group in GROUPS if SYSTEMS[name].best[group] == variant)
            rows.append([SYSTEMS[name].title, variant, *cells, used])
    return page.table(["system", "variant", *columns, "used for"], rows)


def _mid(rows: Sequence[Row], key: str) -> float:
    return median([row[key] for row in rows])
