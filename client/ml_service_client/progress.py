"""A progress bar, where tqdm or rich is installed; neither is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

# Called with how many are done, how many of these failed, and how many there are (None: not known).
Told = Callable[[int, int, "int | None"], None]


class Bar(Protocol):
    """What shows it."""

    def update(self, done: int, failed: int) -> None:
        """So many are done, of which so many failed."""

    def close(self) -> None:
        """No more."""


def bar(progress: bool | Told, total: int | None, label: str) -> Bar:
    """For `progress` of `map`: a bar if True, nothing if False, else the function is called."""
    if callable(progress):
        return _Called(progress, total)
    if progress:
        for made in (_Tqdm, _Rich):
            try:
                return made(total, label)
            except ImportError:
                continue
    return _Called(lambda done, failed, total: None, None)


class _Called:
    def __init__(self, told: Told, total: int | None) -> None:
        self._told, self._total = told, total

    def update(self, done: int, failed: int) -> None:
        self._told(done, failed, self._total)

    def close(self) -> None:
        pass


class _Tqdm:
    def __init__(self, total: int | None, label: str) -> None:
        from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]

        self._bar: Any = tqdm(total=total, desc=label, unit="input")

    def update(self, done: int, failed: int) -> None:
        if failed:
            self._bar.set_postfix(failed=failed, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class _Rich:
    def __init__(self, total: int | None, label: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns)
        self._label = label
        self._task = self._progress.add_task(label, total=total)
        self._progress.start()

    def update(self, done: int, failed: int) -> None:
        told = f"{self._label} ({failed} failed)" if failed else self._label
        self._progress.update(self._task, completed=done, description=told)

    def close(self) -> None:
        self._progress.stop()
