"""`python -m worker pull [model ...]`: have every version's files here, for an image or a start without network."""

from __future__ import annotations

from pathlib import Path

from shared.catalog import load_catalog
from shared.errors import ConfigError
from shared.model_spec import ModelSpec, VersionSpec
from shared.settings import Settings
from worker.check import models_parser, named, of_models, table
from worker.sources import TORCHVISION, fetch

_HEADER = ("model", "result", "MB", "source", "where")


def pull(settings: Settings, arguments: list[str]) -> int:
    """Prints a table to stdout; the arguments are models or `model@version`, none means all. 0 if all is here, else 1.
    Raises ConfigError for a models file that is wrong, UnknownModel for an unknown name, SystemExit for options."""
    parser = models_parser("pull", "Have the files of each model here: for an image, or a start without network.")
    options = parser.parse_args(arguments)
    settings, names = of_models(settings, options.models), options.names
    rows: list[tuple[str, ...]] = [_HEADER]
    failed = 0
    for ref, spec, version in named(load_catalog(settings.models_file), names):
        try:
            where = _have(spec, version, settings)
            rows.append((str(ref), "ok", _megabytes(where), version.source, where))
        except ConfigError as error:
            failed += 1
            rows.append((str(ref), "failed", "", version.source, error.message))
    print(table(rows))  # noqa: T201  # the command's output
    return 1 if failed else 0


def _have(spec: ModelSpec, version: VersionSpec, settings: Settings) -> str:
    if version.source.startswith(TORCHVISION):
        if not version.options.get("weights"):
            from worker.handlers.vision import default_weights

            default_weights(version.source.removeprefix(TORCHVISION))
        return "torch's own cache" if not version.options.get("weights") else str(version.options["weights"])
    return fetch(spec, version, settings) or "nothing to fetch"


def _megabytes(where: str) -> str:
    path = Path(where)
    if not path.exists():
        return ""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.0f}"
