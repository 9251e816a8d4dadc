"""The handler's journal: a line before each batch is computed, and one after."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.records import Execution, Lines, Tail


class Writer:
    """In a worker, any thread; `process` is the name of this one start of it."""

    def __init__(self, path: Path, process: str) -> None:
        self._lines, self._process = Lines(path), process
        self._batches = itertools.count(1)

    def begin(self, numbers: Sequence[int]) -> int:
        """These inputs are about to be computed, as this batch."""
        batch = next(self._batches)
        self._write("begin", batch, numbers)
        return batch

    def end(self, batch: int, numbers: Sequence[int]) -> None:
        """They are computed; nobody knows of it yet."""
        self._write("end", batch, numbers)

    def _write(self, what: str, batch: int, numbers: Sequence[int]) -> None:
        line = {"what": what, "process": self._process, "pid": os.getpid(), "batch": batch}
        self._lines.write(line | {"at": time.monotonic(), "wall": time.time(), "numbers": list(numbers)})


class Journal:
    """Read while it is written."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._open: dict[tuple[str, int], dict[str, Any]] = {}
        self._done: list[Execution] = []

    def refresh(self) -> None:
        """Take in what was written since."""
        for line in self._tail.read():
            batch = line["process"], line["batch"]
            if line["what"] == "begin":
                self._open[batch] = line
            else:
                begun = self._open.pop(batch)
                self._done += _executions(begun, line["at"])

    def in_progress(self, processes: Iterable[str]) -> int:
        """How many inputs these processes are computing now. (What a killed one had begun stays begun.)"""
        self.refresh()
        wanted = set(processes)
        return sum(len(line["numbers"]) for (name, _), line in self._open.items() if name in wanted)

    def executions(self) -> list[Execution]:
        """All so far, also those that were cut."""
        self.refresh()
        return self._done + [one for begun in self._open.values() for one in _executions(begun, None)]


def _executions(begun: dict[str, Any], ended: float | None) -> list[Execution]:
    return [Execution(n, begun["process"], begun["at"], ended) for n in begun["numbers"]]
