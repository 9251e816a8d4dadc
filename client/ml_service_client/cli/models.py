"""Models: what the service serves, and what one of them takes."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ml_service_client.cli.service import Url, client
from ml_service_client.cli.terminal import AsJson, say, show_json, table
from ml_service_client.core.config import HERE
from ml_service_client.records import Model


def models(
    model: Annotated[str | None, typer.Argument(help="of this one: what it takes, and who serves it")] = None,
    as_json: AsJson = False,
    url: Url = HERE,
) -> None:
    """What the service serves. With --json one a line."""
    with client(url) as service:
        found = [service.model(model)] if model else service.models()
    if as_json:
        for one in found:
            show_json(one.raw)
    elif model:
        _detail(found[0])
    else:
        rows = [(one.name, one.task, state(one), one.ready, " ".join(one.versions), _traffic(one)) for one in found]
        table(["MODEL", "TASK", "STATE", ">WORKERS", "VERSIONS", "TRAFFIC"], rows)


def state(model: Model) -> str:
    """paused, ready, or the most hopeful of what its workers say; `no worker`."""
    if model.paused:
        return "paused"
    if model.ready:
        return "ready"
    told = {one["state"] for version in model.raw.get("versions", ()) for one in version.get("workers", ())}
    return next((name for name in ("loading", "unloaded", "failed") if name in told), "no worker")


def _traffic(model: Model) -> str:
    total = sum(model.traffic.values()) or 1.0
    return " ".join(f"{version}:{share / total:.0%}" for version, share in model.traffic.items() if share)


def _detail(model: Model) -> None:
    say(f"model    {model.name}\ntask     {model.task or '-'}\nstate    {state(model)}\ntraffic  {_traffic(model)}")
    for alias, version in model.aliases.items():
        say(f"alias    {alias} -> {version}")
    rows: list[tuple[Any, ...]] = [
        (version["version"], one["worker"], one.get("device"), one["state"], one.get("error"))
        for version in model.raw.get("versions", ())
        for one in version.get("workers", ())
    ]
    if rows:
        say("")
        table(["VERSION", "WORKER", "DEVICE", "STATE", "ERROR"], rows)
    for name, value in (("example", model.example), ("input schema", model.input_schema)):
        if value is not None:
            say(f"\n{name}\n{json.dumps(value, ensure_ascii=False, indent=2)}")
