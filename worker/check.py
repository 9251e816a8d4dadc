"""`python -m worker check [--compare] [model ...]`: load every model as a worker would, run its example, tell what came
of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.catalog import Catalog, Ref, load_catalog
from shared.errors import ConfigError
from shared.logs import Event, get_logger
from shared.model_spec import ModelSpec, VersionSpec
from shared.settings import Settings
from worker.compare import HEADER, Compared, measure
from worker.compare import rows as comparison
from worker.device import claim_device
from worker.handler_class import handler_class
from worker.models import LoadedModel, load_model

_HEADER = ("model", "result", "load s", "warm s", "host MB", "device MB", "device", "output")
_log = get_logger("worker")


def check(settings: Settings, arguments: list[str]) -> int:
    """Prints a table to stdout; the arguments are models or `model@version`, none means all. 0 if all of them load and
    run their example, else 1. With `--compare` a second table: a model's versions beside each other. Raises ConfigError
    for a models file that is wrong, UnknownModel for an unknown name, SystemExit for other options."""
    parser = models_parser("check", "Load each model as a worker would, run its example, tell what came of it.")
    parser.add_argument("--compare", action="store_true", help="also set a model's versions beside each other")
    options = parser.parse_args(arguments)
    settings = of_models(settings, options.models)
    comparing, names = options.compare, options.names
    wanted = list(named(load_catalog(settings.models_file), names))
    device = claim_device(settings).name
    rows: list[tuple[str, ...]] = [_HEADER]
    failed = 0
    compared: dict[str, list[Compared]] = {}
    for ref, spec, version in wanted:
        try:
            kind = handler_class(spec, version, base=settings.models_file.parent)
            model = load_model(ref, spec, version, kind, device=device, settings=settings)
            rows.append(_row(model))
            if comparing:
                compared.setdefault(ref.model, []).append(measure(model))
        # Loading runs the user's code: whatever it raises is this model's result, and the others are still checked.
        except Exception as error:
            failed += 1
            _log.error(Event.MODEL_FAILED, model=str(ref), error=str(error), exc_info=error)
            rows.append((str(ref), "failed", "", "", "", "", device, _reason(error)))
    print(table(rows))  # noqa: T201  # the command's output
    for versions in compared.values():
        print("\n" + table([HEADER, *comparison(versions)]))  # noqa: T201  # the same
    return 1 if failed else 0


def models_parser(command: str, about: str) -> argparse.ArgumentParser:
    """Of a command about some models or all."""
    parser = argparse.ArgumentParser(prog=f"ml-service {command}", description=about)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="name or name@version; none: all")
    parser.add_argument("--models", type=Path, metavar="FILE", help="the models file (default: ML_MODELS_FILE)")
    return parser


def of_models(settings: Settings, file: Path | None) -> Settings:
    """The same with another models file, if there is one."""
    return settings if file is None else settings.model_copy(update={"models_file": file})


def named(catalog: Catalog, names: list[str]) -> Iterator[tuple[Ref, ModelSpec, VersionSpec]]:
    """The versions of these models, or `model@version`; all where none is named. Raises UnknownModel."""
    wanted = [_wanted(catalog, name) for name in names]
    for ref, spec, version in catalog.refs():
        if not wanted or any(ref.model == model and pin in ("", ref.version) for model, pin in wanted):
            yield ref, spec, version


def _wanted(catalog: Catalog, name: str) -> tuple[str, str]:
    model, _, pin = name.partition("@")
    if not pin:
        catalog.spec(model)
        return model, ""
    ref = catalog.resolve(name)
    return ref.model, ref.version


def _row(model: LoadedModel) -> tuple[str, ...]:
    return (
        str(model.ref),
        "ok",
        f"{model.load_s:.2f}",
        f"{model.warm_s:.2f}",
        f"{model.host_bytes / 1e6:.0f}",
        f"{model.device_bytes / 1e6:.0f}",
        model.device,
        shape(model.example_output),
    )


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
    return kind + (text[0] if text else "")


def shape(value: Any) -> str:
    """JSON data in a few words: {embedding: [384 numbers]}."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shape(item)}" for key, item in list(value.items())[:6]) + "}"
    if isinstance(value, list):
        return f"[{len(value)} x {shape(value[0])}]" if value else "[]"
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    return {"str": "text", "int": "number", "float": "number"}[type(value).__name__]


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns aligned with spaces."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
