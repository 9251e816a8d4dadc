"""What a command has made, put between its two marks in a page whose other words are written by hand."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe


def put(page: Path, command: str, text: str) -> None:
    """Replace what stands between the marks of `command`. Raises ValueError where the page lacks them."""
    begin, end = (f"<!-- made by `{command}`: {edge} -->" for edge in ("begin", "end"))
    before, opened, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"{page} lacks the marks of `{command}`")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def command(target: str) -> str:
    """`make TARGET`, with the arguments that this process was given."""
    return f"{target} ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else target


def now() -> str:
    """In UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def stamp(target: str) -> dict[str, Any]:
    """When, by which command and on which machine data is made."""
    return {"when": now(), "command": command(target), "machine": describe()}


def publish(data: dict[str, Any], text: str, target: str, page: Path | None) -> None:
    """Print what was made of the data (with its stamp); keep the data beside `page` and put the text into it, if there
    is one."""
    print(text)
    if page:
        keep(page.with_suffix(".json"), data)
        put(page, target, f"Made {data['when']} by `{data['command']}`. {machine(data['machine'])}\n\n{text}")


def keep(file: Path, data: dict[str, Any]) -> None:
    """The raw data, as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data, indent=1) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines)


def machine(data: dict[str, Any]) -> str:
    """One sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    return (
        f"Machine: {data['cores']} cores {data['cpu']} ({', '.join(data['vector_units'])}), {data['memory_gb']} GB, "
        f"{data['system']}, Python {data['python']}; {versions}."
    )
