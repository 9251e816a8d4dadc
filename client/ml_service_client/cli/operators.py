"""For operators: hold a model's jobs back, throw them away, let a worker leave, try dead letters again."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Annotated, Any

import typer

from ml_service_client.cli.ending import usage
from ml_service_client.cli.jobs import pairs
from ml_service_client.cli.service import Url, client
from ml_service_client.cli.terminal import ERROR, AsJson, note, say, show_json
from ml_service_client.core.config import HERE

_PURGE_S = 150.0
_LOOK_S = 0.5
FILTERS = ("model", "reason", "label")


def pause(model: str, as_json: AsJson = False, url: Url = HERE) -> None:
    """Let no job of a model start until `resume`. What runs ends; callers may still submit."""
    with client(url) as service:
        done = service.request("POST", f"/v1/models/{model}/pause")
    told = "is paused: its jobs wait" if done["changed"] else "was paused already"
    show_json(done) if as_json else say(f"{model} {told}")


def resume(model: str, as_json: AsJson = False, url: Url = HERE) -> None:
    """Let jobs of a paused model start again."""
    with client(url) as service:
        done = service.request("POST", f"/v1/models/{model}/resume")
    show_json(done) if as_json else say(f"{model} {'goes on' if done['changed'] else 'was not paused'}")


def purge(
    model: str,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    as_json: AsJson = False,
    url: Url = HERE,
) -> None:
    """Cancel all jobs of a model that have not started."""
    if not yes:
        if not sys.stdin.isatty():
            raise usage("purge cancels other people's jobs: say --yes")
        typer.confirm(f"Cancel all jobs of {model} that have not started?", abort=True, err=True)
    with client(url, timeout=_PURGE_S) as service:
        done = service.request("POST", f"/v1/models/{model}/purge")
    show_json(done) if as_json else say(f"{done['canceled']} jobs of {model} are canceled")


def drain(
    worker: Annotated[str, typer.Argument(help="its name, or the id of one process")],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="until it has left")] = False,
    as_json: AsJson = False,
    url: Url = HERE,
) -> None:
    """Let a worker finish its batch, give the rest back and leave. Whoever keeps it running may start it again."""
    with client(url) as service:
        done = service.request("POST", f"/v1/workers/{worker}/drain")
        if wait:
            while _living(service.request("GET", "/v1/workers")) & set(done["draining"]):
                time.sleep(_LOOK_S)
    show_json(done) if as_json else say(f"{worker} {'has left' if wait else 'drains'}: {', '.join(done['draining'])}")


def _living(workers: dict[str, Any]) -> set[str]:
    return {one["id"] for one in workers["data"]}


def requeue(
    *,
    wanted: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="NAME=VALUE", help="model, reason, or label=NAME:VALUE; may be given again"),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="every dead letter")] = False,
    as_json: AsJson = False,
    url: Url = HERE,
) -> None:
    """Make a new job of each dead letter that the filters let through. Exit code 1 if one could not be retried."""
    if bool(wanted) == all_:
        raise usage("requeue: say which by --filter, or --all")
    params = filters(wanted)
    retried, after = 0, None
    failed: list[dict[str, Any]] = []
    with client(url, timeout=_PURGE_S, retries=0) as service:
        while True:
            more: dict[str, str | list[str]] = {"after": after} if after else {}
            done = service.request("POST", "/v1/dead/requeue", params=params | more)
            retried, after = retried + done["retried"], done["next"]
            failed += done["failed"]
            if after is None:
                break
    if as_json:
        show_json({"retried": retried, "failed": failed})
    else:
        say(f"{retried} dead letters are jobs again")
        for why, count in Counter(one["detail"] for one in failed).most_common():
            note(f"{count} are not: {why}", "red")
    if failed:
        raise typer.Exit(ERROR)


def filters(given: list[str] | None) -> dict[str, str | list[str]]:
    """As the service takes them."""
    found: dict[str, str | list[str]] = {}
    for one in given or ():
        name, value = next(iter(pairs([one], "--filter").items()))
        if name not in FILTERS:
            raise usage(f"--filter: {name!r} is none of {', '.join(FILTERS)}")
        if name == "label":
            found["label"] = [*found.get("label", []), value.replace("=", ":", 1) if ":" not in value else value]
        elif name in found:
            raise usage(f"--filter: {name} may be given once")
        else:
            found[name] = value
    return found
