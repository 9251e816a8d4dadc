"""What the run leaves behind for the judge: calls, executions, events. JSON lines, each in one O_APPEND write, so that
a killed writer leaves whole lines. Instants are CLOCK_MONOTONIC, which all processes of a machine share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a caller, from its side. `kind`: jobs, inference, wait, send_task, result, again (the second
    reading, when all is over). `status`: of HTTP (200 and 202 also for their like in Celery), 0: no answer came, and
    `error` says why ("dropped": the caller hung up; "gave up": it will not ask again)."""

    n: int
    kind: str
    sent: float
    ended: float
    status: int
    error: str = ""
    job_id: str = ""
    state: str = ""
    output: Any = None
    finished_at: str = ""


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of one input by one worker process. `ended` None: it never came to the line after."""

    n: int
    process: str
    begun: float
    ended: float | None


@dataclass(slots=True)
class Event:
    """Something that was done to the stack. `hit`: how much work in flight it met, by what the driver saw (0 where
    only the callers can tell). `back_s`: until what was hit served again. `killed`: the process that got SIGKILL."""

    kind: str
    at: float
    target: str = ""
    hit: int = 0
    back_s: float = 0.0
    killed: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


class Lines:
    """Writes a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, line: Any) -> None:
        """One write, so no line of another process gets in between."""
        os.write(self._file, orjson.dumps(asdict(line) if not isinstance(line, dict) else line) + b"\n")


class Tail:
    """Reads a file of JSON lines that others still write."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def read(self) -> Iterator[Any]:
        """The whole lines since the last reading."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                yield orjson.loads(line)


def read_calls(path: Path) -> list[Call]:
    """All of one caller's log."""
    return [Call(**line) for line in Tail(path).read()]
