"""`ml-service webhooks`: what this API key's webhooks are signed with."""

from __future__ import annotations

from typing import Annotated

import typer

from ml_service_client.cli.service import Url, client
from ml_service_client.cli.terminal import AsJson, note, say, show_json
from ml_service_client.core.config import HERE
from ml_service_client.records import WebhookSecret

app = typer.Typer(help="Webhooks: the secret that they are signed with.", no_args_is_help=True)


@app.command()
def secret(as_json: AsJson = False, url: Url = HERE) -> None:
    """The secret; made at the first call."""
    with client(url) as service:
        _show(service.webhook_secret(), as_json=as_json)


@app.command()
def rotate(
    *,
    grace_days: Annotated[float, typer.Option(min=0, help="how long both secrets sign")] = 1.0,
    as_json: AsJson = False,
    url: Url = HERE,
) -> None:
    """A new secret."""
    with client(url) as service:
        _show(service.rotate_webhook_secret(grace_days * 86_400), as_json=as_json)


def _show(found: WebhookSecret, *, as_json: bool) -> None:
    until = found.previous_until and found.previous_until.isoformat()
    if as_json:
        return show_json({"secret": found.secret, "previous_until": until})
    say(found.secret)
    if until:
        note(f"the one before signs too until {until}")
