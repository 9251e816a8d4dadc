"""A webhook as it comes over the wire, verified by the libraries that backends have."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.api_stack import Hands, serving, settings, until
from tests.receiver import Message, Receiver

PYTHON = Path(__file__).parents[2] / ".venv-clients" / "main" / "bin" / "python"
PROGRAM = Path(__file__).with_name("verify_webhooks.py")

pytestmark = pytest.mark.clients


async def _message(redis_url: str, folder: Path, *, rotate: bool) -> tuple[list[str], Message]:
    """One, and the secrets that it is signed with."""
    asked = settings(redis_url, folder, outbound_allow="127.0.0.1")
    async with serving(asked) as api:
        hands = Hands.on(asked)
        secrets = [(await api.client.get("/v1/webhooks/secret")).json()["secret"]]
        if rotate:
            secrets.append((await api.client.post("/v1/webhooks/secret/rotate")).json()["secret"])
        with Receiver() as receiver:
            body = {"model": "echo", "input": "\u00e4 \u4e2d", "webhook": receiver.url}
            assert (await api.client.post("/v1/jobs", json=body)).status_code == 202
            await hands.finish((await hands.take())[0])
            await until(lambda: receiver.got, "it is told")
        await hands.client.aclose()
        return secrets, receiver.got[0]


def _verified(secret: str, message: Message) -> list[str]:
    """By which libraries."""
    told = {"secret": secret, "headers": message.headers, "body": message.body.decode()}
    program, asked = [str(PYTHON), str(PROGRAM)], json.dumps(told)
    done = subprocess.run(program, input=asked, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("rotate", [False, True])
async def test_four_libraries_take_it(redis_url: str, tmp_path: Path, rotate: bool) -> None:
    secrets, message = await _message(redis_url, tmp_path, rotate=rotate)
    for secret in secrets:
        assert _verified(secret, message) == ["standardwebhooks", "svix", "openai", "replicate"]
