"""What a command says, and how: people get tables and colours, programs JSON and plain text.

Results go to stdout, all else to stderr. Rich leaves colours away where there is no terminal, and where
NO_COLOR is set.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Exit codes; docs/cli.md tells them. Typer ends with 2 for a wrong call.
ERROR, USAGE, FAILED, TIMEOUT, INTERRUPTED, BROKEN_PIPE = 1, 2, 3, 4, 130, 141

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

_ENDLESS = 100_000  # columns: a program that reads a table wants all of it
STYLES = {
    "succeeded": "green",
    "ready": "green",
    "running": "cyan",
    "queued": "yellow",
    "paused": "yellow",
    "loading": "yellow",
    "draining": "yellow",
    "failed": "red",
    "stalled": "red",
    "canceled": "magenta",
}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the program with 1."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """Of this moment's stdout or stderr."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _ENDLESS
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    """A line of the result."""
    console().print(text, style=style)


def note(text: str, style: str = "") -> None:
    """A line beside the result."""
    console(stderr=True).print(text, style=style)


def show_json(value: Any) -> None:
    """One line of the result."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A column whose name begins with `>` is to the right. None is `-`."""
    console().print(made_table(columns, rows), soft_wrap=False)


def made_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """The same, not printed."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column[:1] == ">" else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def _cell(value: object) -> Text:
    text = "-" if value is None else str(value)
    return Text(text, style=STYLES.get(text, ""))


def ago(at: datetime | None) -> str | None:
    """How long ago, roughly."""
    return None if at is None else span((datetime.now(timezone.utc) - at).total_seconds())


def span(seconds: float) -> str:
    """As `4 s`, `12 min`, `3 h`, `2 d`."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def size(count: float | None) -> str | None:
    """Bytes, as `1.5 GB`."""
    if count is None:
        return None
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
