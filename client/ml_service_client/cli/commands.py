"""The commands. `up` and `check` become the service's own programs: their options are told by those."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable

import typer

from ml_service_client.cli import admin, bulk, dead, jobs, keys, models, operators, top, webhooks
from ml_service_client.cli.ending import Group

app = typer.Typer(
    name="ml-service",
    cls=Group,
    help="Run and use ml-service: models behind a queue, batched, with nothing accepted ever lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# --help and every option belong to the program that runs.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Run and use ml-service: models behind a queue, batched, with nothing accepted ever lost."""
    if version:
        from ml_service_client import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command(context_settings=_PASS_ON)
def up(context: typer.Context) -> None:
    """Start server, API, workers and Flower on this machine; `up --help` tells the options."""
    _become("local", ["up", *context.args])


@app.command(context_settings=_PASS_ON)
def check(context: typer.Context) -> None:
    """Load each model (or those named), run its example, tell time, memory, device and output shape."""
    _become("worker", ["check", *context.args])


@app.command(context_settings=_PASS_ON)
def pull(context: typer.Context) -> None:
    """Have the files of each model (or those named) here: for an image, or before a start without network."""
    _become("worker", ["pull", *context.args])


def _add(panel: str, *commands: Callable[..., None]) -> None:
    for command in commands:
        app.command(rich_help_panel=panel)(command)


_JOBS, _MODELS, _OPERATE = "Jobs", "Models", "Operate"
_add(_JOBS, jobs.submit, jobs.wait, jobs.get, jobs.cancel, bulk.bulk, jobs.jobs)
app.add_typer(webhooks.app, name="webhooks", rich_help_panel=_JOBS)
_add(_MODELS, models.models, admin.apply, admin.rollback)
_add(_OPERATE, top.top, operators.pause, operators.resume, operators.purge, operators.drain, operators.requeue)
app.add_typer(dead.app, name="dead", rich_help_panel=_OPERATE)
app.add_typer(keys.app, name="keys", rich_help_panel=_OPERATE)


def _become(package: str, arguments: list[str]) -> None:
    """Replace this process by `python -m PACKAGE`: signals and exit code are then the program's own."""
    # `-m` sees packages of the working folder, a console script does not; a checkout need not be installed.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if importlib.util.find_spec(f"{package}.__main__") is None:
        typer.echo(
            f"ml-service: the service itself (its package `{package}`) is not installed here. Run this in a checkout "
            "of ml-service, or in its container; to use a service that runs elsewhere nothing more is needed.",
            err=True,
        )
        raise typer.Exit(1)
    os.execv(sys.executable, [sys.executable, "-m", package, *arguments])  # noqa: S606 - no shell
