"""Asking a running service, with the key of the environment."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import httpx
import typer

from ml_service_client import SyncMLServiceClient
from ml_service_client.cli.ending import Failure, usage

Url = Annotated[str, typer.Option("--url", envvar="ML_SERVICE_URL", help="of the service")]


def client(url: str, **options: Any) -> SyncMLServiceClient:
    """With the API key of ML_SERVICE_API_KEY, where it is set: arguments could be read by everybody on the machine."""
    try:
        return SyncMLServiceClient(url, **options)
    except UnicodeEncodeError:
        raise usage("ML_SERVICE_API_KEY: a key has only ASCII characters") from None
    except ValueError as error:
        raise usage(f"--url: {error}") from None


def service(url: str) -> httpx.Client:
    """The same without retries and types, for calls whose headers matter."""
    return client(url).client


def ask(http: httpx.Client, method: str, path: str, **more: Any) -> tuple[dict[str, Any], str]:
    """The body (empty where there is none) and its ETag. Raises MLServiceError."""
    from ml_service_client.core.answers import dict_of, error_of

    answer = http.request(method, path, **more)
    if not answer.is_success:
        raise error_of(answer)
    return dict_of(answer) if answer.content else {}, answer.headers.get("etag", "")


def fail(message: str) -> NoReturn:
    """Says it and ends the program with 1."""
    raise Failure(message)
