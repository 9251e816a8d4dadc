"""The handler's journal: a line before each batch is computed, and one after."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.records import Execution, Lines, Tail


class Writer:
    """In a worker; `process` is the name of this one start of it."""

    def __init__(self, path: Path, process: str) -> None:
        self._lines, self._process = Lines(path), process
        self._batch = 0

    def begin(self, numbers: Sequence[int]) -> None:
        """These inputs are about to be computed."""
        self._batch += 1
        self._write("begin", numbers)

    def end(self, numbers: Sequence[int]) -> None:
        """They are computed; nobody knows of it yet."""
        self._write("end", numbers)

    def _write(self, what: str, numbers: Sequence[int]) -> None:
        line = {"what": what, "process": self._process, "pid": os.getpid(), "batch": self._batch}
        self._lines.write(line | {"at": time.monotonic(), "wall": time.time(), "numbers": list(numbers)})


class Journal:
    """Read while it is written. A worker runs one batch at a time."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._open: dict[str, dict[str, Any]] = {}
        self._done: list[Execution] = []

    def refresh(self) -> None:
        """Take in what was written since."""
        for line in self._tail.read():
            if line["what"] == "begin":
                self._open[line["process"]] = line
            else:
                begun = self._open.pop(line["process"])
                self._done += _executions(begun, line["at"])

    def in_progress(self, processes: Iterable[str]) -> int:
        """How many inputs these processes are computing now. (What a killed one had begun stays begun.)"""
        self.refresh()
        return sum(len(self._open[name]["numbers"]) for name in processes if name in self._open)

    def executions(self) -> list[Execution]:
        """All so far, also those that were cut."""
        self.refresh()
        return self._done + [one for begun in self._open.values() for one in _executions(begun, None)]


def _executions(begun: dict[str, Any], ended: float | None) -> list[Execution]:
    return [Execution(n, begun["process"], begun["at"], ended) for n in begun["numbers"]]
