"""Asking a running service, with the key of the environment."""

from __future__ import annotations

import os
from typing import Annotated, Any, NoReturn

import httpx
import typer

Url = Annotated[str, typer.Option("--url", envvar="ML_SERVICE_URL", help="of the service")]
HERE = "http://127.0.0.1:8001"


def service(url: str) -> httpx.Client:
    """With the API key of ML_SERVICE_API_KEY, where it is set: arguments could be read by everybody on the machine."""
    key = os.environ.get("ML_SERVICE_API_KEY")
    return httpx.Client(base_url=url, timeout=30, headers={"Authorization": f"Bearer {key}"} if key else {})


def ask(http: httpx.Client, method: str, path: str, **more: Any) -> tuple[dict[str, Any], str]:
    """The body (empty where there is none) and its ETag; ends the program with what the service says."""
    try:
        answer = http.request(method, path, **more)
    except httpx.TransportError as error:
        fail(f"no service answers at {http.base_url}: {error}")
    try:
        body: dict[str, Any] = answer.json() if answer.content else {}
    except ValueError:
        fail(f"{http.base_url} is no ml-service: {answer.status_code}")
    if answer.is_success:
        return body, answer.headers.get("etag", "")
    for fault in body.get("errors") or []:
        typer.secho(f"{fault['pointer']}: {fault['message']}", fg="red", err=True)
    hint = "; set ML_SERVICE_API_KEY" if answer.status_code == 401 else ""
    fail(f"{body.get('detail') or body}{hint}")


def fail(message: str) -> NoReturn:
    """Says it and ends the program with 1."""
    typer.secho(f"ml-service: {message}", fg="red", err=True)
    raise typer.Exit(1)
