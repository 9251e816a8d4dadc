"""Runs in .venv-clients: a message as it came, as JSON on stdin ({"secret", "headers", "body"}), is verified by each
library that a backend may have, and refused by each once a byte of it is another. Prints the libraries' names."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import standardwebhooks
import svix.webhooks
from openai import OpenAI
from replicate.webhook import Webhooks, WebhookSigningSecret

Verify = Callable[[str, dict[str, str], str], object]


def _openai(secret: str, headers: dict[str, str], body: str) -> object:
    return OpenAI(api_key="none", webhook_secret=secret).webhooks.verify_signature(body, headers)


def _replicate(secret: str, headers: dict[str, str], body: str) -> object:
    return Webhooks.validate(headers=headers, body=body, secret=WebhookSigningSecret(key=secret), tolerance=300)


LIBRARIES: dict[str, Verify] = {
    "standardwebhooks": lambda secret, headers, body: standardwebhooks.Webhook(secret).verify(body, headers),
    "svix": lambda secret, headers, body: svix.webhooks.Webhook(secret).verify(body, headers),
    "openai": _openai,
    "replicate": _replicate,
}


def main() -> None:
    """Raises what a library raises that does not take the message."""
    told = json.load(sys.stdin)
    for name, verify in LIBRARIES.items():
        verify(told["secret"], told["headers"], told["body"])
        for headers, body in (
            (told["headers"], told["body"] + " "),
            (told["headers"] | {"webhook-id": "msg_another"}, told["body"]),
        ):
            try:
                verify(told["secret"], headers, body)
            except Exception:  # noqa: S112 - each has an error of its own
                continue
            raise AssertionError(f"{name} takes a message that is not ours")
        print(name)


if __name__ == "__main__":
    main()
