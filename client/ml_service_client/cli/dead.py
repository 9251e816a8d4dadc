"""`ml-service dead`: the dead letters of a running service."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ml_service_client.cli.operators import filters
from ml_service_client.cli.service import Url, client
from ml_service_client.cli.terminal import AsJson, ago, say, show_json, table
from ml_service_client.core.config import HERE
from ml_service_client.types import Json, instant

app = typer.Typer(
    help="Dead letters: messages that nobody could work on. List, show, retry, drop.", no_args_is_help=True
)

Letters = Annotated[list[str], typer.Argument(metavar="LETTER...")]
_PAGE = 100


@app.command("list")
def list_letters(
    *,
    wanted: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="NAME=VALUE", help="model, reason, or label=NAME:VALUE; may be given again"),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="how many")] = 50,
    as_json: AsJson = False,
    url: Url = HERE,
) -> None:
    """The newest first. With --json one a line."""
    params, after = filters(wanted), None
    found: list[Json] = []
    with client(url) as service:
        while len(found) < limit:
            more = {"limit": str(min(_PAGE, limit - len(found))), **({"after": after} if after else {})}
            page = service.request("GET", "/v1/dead", params=params | more)
            found += page["letters"]
            after = page["next"]
            if after is None:
                break
    if as_json:
        for one in found:
            show_json(one)
        return
    rows = [
        (
            one["id"],
            one["reason"],
            _ref(one),
            ago(instant(one["created_at"])),
            one["attempts"],
            one["worker"],
            one["job_id"],
        )
        for one in found
    ]
    table(["LETTER", "REASON", "MODEL", ">AGE", ">ATTEMPTS", "WORKER", "JOB"], rows)


def _ref(letter: Json) -> str | None:
    model, version = letter["model"], letter["version"]
    return f"{model}@{version}" if version else str(model) if model else None


@app.command()
def show(letter: str, as_json: AsJson = False, url: Url = HERE) -> None:
    """One, with what its message asks for."""
    with client(url) as service:
        found = service.request("GET", f"/v1/dead/{letter}")
    if as_json:
        return show_json(found)
    for name, value in found.items():
        if name != "message" and value not in (None, {}, []):
            told = value if isinstance(value, str | int) else json.dumps(value, ensure_ascii=False)
            say(f"{name:<16} {told}")


@app.command()
def retry(letters: Letters, *, as_json: AsJson = False, url: Url = HERE) -> None:
    """Make a new job of each, and print its id."""
    with client(url, retries=0) as service:
        for letter in letters:
            job = service.request("POST", f"/v1/dead/{letter}/retry")
            show_json(job) if as_json else say(job["id"])


@app.command()
def drop(letters: Letters, *, as_json: AsJson = False, url: Url = HERE) -> None:
    """For good, with their inputs."""
    with client(url, retries=0) as service:
        for letter in letters:
            service.request("DELETE", f"/v1/dead/{letter}")
            show_json({"dropped": letter}) if as_json else say(f"{letter} is gone")
