"""`up --reload`: which processes a changed file touches. By looking at the files' times twice a second: a hundred files
cost nothing, and an editor that replaces a file is seen like one that writes it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from shared.catalog import Catalog

API, WORKERS = "api", "workers"
Snapshot = dict[Path, int]


class Watch:
    """The code of api, worker and shared, the models file, and the folders of users' own handlers in it."""

    def __init__(self, models: Path, catalog: Catalog) -> None:
        self._models = models.resolve()
        self._packages = {name: _package(name) for name in ("api", "worker", "shared")}
        names = [spec.handler.rpartition(":")[0] for spec in catalog.models.values() if spec.handler]
        places = [base / name for name in names if name.endswith(".py") for base in (self._models.parent, Path())]
        self._handlers = {place.resolve().parent for place in places if place.exists()}
        self._before = self._look()

    def touched(self) -> set[str]:
        """API, WORKERS, both or none: what must restart for what has changed since the last call."""
        now, before = self._look(), self._before
        self._before = now
        parts: set[str] = set()
        for path in now.keys() | before.keys():
            if now.get(path) != before.get(path):
                parts |= self._parts(path)
        return parts

    def _look(self) -> Snapshot:
        paths = [self._models]
        for folder in self._packages.values():
            paths += [path for path in folder.rglob("*") if path.suffix in (".py", ".lua")]
        for folder in self._handlers:
            paths += folder.glob("*.py")
        return {path: time for path in paths if (time := _changed_at(path))}

    def _parts(self, path: Path) -> set[str]:
        if path == self._models or path.is_relative_to(self._packages["shared"]):
            return {API, WORKERS}
        return {API} if path.is_relative_to(self._packages["api"]) else {WORKERS}


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # just being replaced
        return 0


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    return Path(spec.origin).resolve().parent
