"""`ml-service keys`: API keys of a running service, over its HTTP interface. Needs a key of the scope admin, or, where
keys are off, to be asked from the service's machine."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

import typer

from ml_service_client.cli.service import Url, ask, service
from ml_service_client.core.config import HERE

app = typer.Typer(help="API keys: make, list, rotate, revoke, and what each has used.", no_args_is_help=True)

Days = Annotated[float | None, typer.Option("--expires-days", min=0, help="default: never")]


@app.command()
def create(
    *,
    name: Annotated[str, typer.Option(help="whose it is, for people")],
    scope: Annotated[
        list[str] | None, typer.Option(help="submit, read, metrics, admin; default: submit and read")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="that it may use; default: all")] = None,
    weight: Annotated[int, typer.Option(help="its share beside other keys where jobs wait, 1 to 100")] = 1,
    requests: Annotated[str | None, typer.Option(help="as in 100/minute")] = None,
    items: Annotated[str | None, typer.Option(help="of all its jobs, as in 10000/hour")] = None,
    bytes: Annotated[str | None, typer.Option(help="of their inputs, as in 50MB/minute")] = None,
    concurrent: Annotated[int | None, typer.Option(help="jobs that have not ended")] = None,
    expires_days: Days = None,
    url: Url = HERE,
) -> None:
    """Make a key, and show its secret, once."""
    limits = {"requests": requests, "items": items, "bytes": bytes, "concurrent": concurrent}
    body: dict[str, Any] = {"name": name, "weight": weight, "limits": limits, "models": model or None}
    if scope:
        body["scopes"] = scope
    body["expires_at"] = _in(expires_days)
    with service(url) as http:
        made, _ = ask(http, "POST", "/v1/keys", json=body)
    typer.echo(f"id      {made['id']}\nscopes  {', '.join(sorted(made['scopes']))}")
    _show(made, "it is not stored, and cannot be shown again")


@app.command("list")
def list_keys(url: Url = HERE) -> None:
    """All keys, without their secrets."""
    with service(url) as http:
        found, _ = ask(http, "GET", "/v1/keys")
    for key in found["data"]:
        end = "expired" if key["expired"] else f"until {key['expires_at']}" if key["expires_at"] else "never expires"
        models = "all models" if key["models"] is None else ", ".join(sorted(key["models"]))
        typer.echo(f"{key['id']}  {key['name']}  {', '.join(sorted(key['scopes']))}  {models}  {end}")


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(metavar="ID")],
    grace_days: Annotated[float, typer.Option(min=0, help="how long the old secret works beside the new one")] = 1.0,
    expires_days: Days = None,
    url: Url = HERE,
) -> None:
    """A new secret for a key; its jobs, limits and usage stay."""
    body = {"grace_s": grace_days * 86_400, "expires_at": _in(expires_days)}
    with service(url) as http:
        made, _ = ask(http, "POST", f"/v1/keys/{key_id}/rotate", json=body)
    _show(made, f"the old one works for {grace_days:g} days more")


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], url: Url = HERE) -> None:
    """End a key at once, with all its secrets."""
    with service(url) as http:
        ask(http, "DELETE", f"/v1/keys/{key_id}")
    typer.echo(f"{key_id} opens nothing any more")


@app.command()
def usage(
    key_id: Annotated[str, typer.Argument(metavar="ID")],
    first: Annotated[str | None, typer.Option(help="a day, as in 2026-01-31; default: 30 days before last")] = None,
    last: Annotated[str | None, typer.Option(help="default: today")] = None,
    url: Url = HERE,
) -> None:
    """What a key has used, by day (UTC) and version."""
    params = {name: day for name, day in (("first", first), ("last", last)) if day}
    with service(url) as http:
        found, _ = ask(http, "GET", f"/v1/keys/{key_id}/usage", params=params)
    typer.echo("day         jobs  items  tokens  device s  model")
    for one in found["data"]:
        counts = f"{one['jobs']:>4}  {one['items']:>5}  {one['tokens']:>6}  {one['device_s']:>8.2f}"
        typer.echo(f"{one['day']}  {counts}  {one['model']}@{one['version']}")


def _in(days: float | None) -> str | None:
    return None if days is None else (datetime.now(timezone.utc) + timedelta(days=days)).isoformat()


def _show(made: dict[str, Any], note: str) -> None:
    typer.echo(f"secret  {made['secret']}")
    typer.echo(f"Keep it: {note}." if note.startswith("it is") else f"{note[0].upper()}{note[1:]}.")
