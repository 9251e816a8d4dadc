"""How far a bulk run is: a bar on a terminal, a line now and then elsewhere. And Ctrl-C, which is to be heard."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ml_service_client.cli.terminal import console, note, span

_EVERY_S = 10.0
_DRAW_S = 0.1


class Progress:
    """On stderr. `done` and `failed`: of the runs before."""

    def __init__(self, total: int, done: int, failed: int) -> None:
        self._total, self._first, self._began = total, done, time.monotonic()
        self._told = self._began
        self._bar: RichProgress | None = None
        if done:
            note(f"going on at {done:,} of {total:,}")
        if sys.stderr.isatty():
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[failed]}", style="red"),
            )
            self._bar = RichProgress(*columns, console=console(stderr=True))
            self._task = self._bar.add_task("bulk", total=total, completed=done, rate="", failed="")
            self._bar.start()
            self.update(done, failed)

    def update(self, done: int, failed: int) -> None:
        """So many lines have a result, of which so many failed."""
        now = time.monotonic()
        if now - self._told < (_EVERY_S if self._bar is None else _DRAW_S):
            return
        self._told = now
        rate = (done - self._first) / (now - self._began)
        failures = f"{failed:,} failed" if failed else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:,.0f}/s", failed=failures)
            return
        left = f", {span((self._total - done) / rate)} left" if rate else ""
        note(f"{done:,} of {self._total:,}, {rate:,.0f}/s{left}{', ' if failures else ''}{failures}")

    def close(self) -> None:
        """Once, or again."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._told = float("inf")


class Interrupt:
    """Ctrl-C also where Python would lose it: what is raised while an object's memory is freed is only printed. Main
    thread."""

    def __init__(self) -> None:
        self._heard = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def look(self) -> None:
        """Raises KeyboardInterrupt where there was one."""
        if self._heard:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
        raise KeyboardInterrupt
