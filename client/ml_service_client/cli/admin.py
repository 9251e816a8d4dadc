"""Commands that change the models of a running service, over its HTTP interface."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import yaml

from ml_service_client.cli.service import Url, ask, fail, service
from ml_service_client.core.config import HERE

Wait = Annotated[float, typer.Option("--wait", help="seconds to wait until callers get it; 0: do not wait")]
_PATIENCE_S = 600.0
_LOOK_S = 0.5


def apply(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="what is to be served")] = Path(
        "models.yaml"
    ),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    url: Url = HERE,
    wait_s: Wait = _PATIENCE_S,
) -> None:
    """Make the running service serve what a models file says, and nothing else: shows what changes, and asks. Nothing
    restarts, and callers get what they got before until workers have the new."""
    try:
        models = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"{file}: {error}")
    with service(url) as http:
        would, etag = ask(http, "PUT", "/v1/models", json=models, params={"dry_run": "true"})
        if not would["changes"]:
            typer.echo("nothing to change")
        else:
            _show(would["changes"])
            if not yes:
                typer.confirm("Apply?", abort=True)
            done, _ = ask(http, "PUT", "/v1/models", json=models, headers={"If-Match": etag})
            typer.echo(f"applied: generation {done['generation']}")
        _follow(http, wait_s)


def rollback(model: str, url: Url = HERE, wait_s: Wait = _PATIENCE_S) -> None:
    """Call off a model's rollout, or undo its last change. Twice is back again."""
    with service(url) as http:
        done, _ = ask(http, "POST", f"/v1/models/{model}/rollback")
        _show(done["changes"])
        typer.echo(f"rolled back: generation {done['generation']}")
        _follow(http, wait_s, only=model)


def _show(changes: list[dict[str, Any]]) -> None:
    for change in changes:
        before, after = change["before"], change["after"]
        if before is None:
            typer.secho(f"+ {change['path']}: {after}", fg="green")
        elif after is None:
            typer.secho(f"- {change['path']}: {before}", fg="red")
        else:
            typer.secho(f"~ {change['path']}: {before} -> {after}", fg="yellow")


def _follow(http: httpx.Client, wait_s: float, only: str | None = None) -> None:
    """Until no rollout is under way. Exit code 1 where one fails or the wait is over."""
    end, told = time.monotonic() + wait_s, ""
    while True:
        body = ask(http, "GET", "/v1/models")[0]
        under_way = [one for one in body["rollouts"] if only in (None, one["model"])]
        if not under_way:
            typer.echo("callers get it")
            return
        text = "; ".join(_progress(rollout) for rollout in under_way)
        if text != told:
            typer.echo(text)
            told = text
        failed = [rollout for rollout in under_way if rollout["state"] == "failed"]
        for fault in (fault for rollout in failed for fault in rollout["failures"]):
            typer.secho(f"version {fault['version']} on {fault['worker']}: {fault['error']}", fg="red", err=True)
        if failed:
            fail("nothing has changed for callers; it is tried again, and `ml-service rollback MODEL` calls it off")
        if time.monotonic() >= end:
            if wait_s > 0:
                fail("the wait is over; the rollout goes on")
            return
        time.sleep(_LOOK_S)


def _progress(rollout: dict[str, Any]) -> str:
    versions = ", ".join(rollout["versions"])
    where = f"{rollout['ready']} of {rollout['workers']} workers have version {versions}"
    return f"{rollout['model']}: {'no worker lives that takes it' if rollout['state'] == 'no_worker' else where}"
