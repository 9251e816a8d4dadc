"""What a backend has: the client that many have already, verbatim; ours in its place; and examples/backend.py."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

import httpx
import pytest
from ml_service_client.webhooks import signature

from local.ports import free_port
from local.server import EmbeddedServer
from tests.conftest import wait_until
from tests.processes import REPOSITORY, api
from tests.unit.test_readme import blocks

CLIENT = (Path(__file__).parent / "seed_client.py.txt").read_text()
CONFIG = """ML_SERVICE_URL: str = Field(
    default="http://ml-service:8001",
    description="ML service URL (Docker) or external API URL"
)
"""
PAGE = REPOSITORY / "docs" / "client.md"
OURS = next(block for block in blocks(PAGE, "python") if "MLServiceClient(settings.ML_SERVICE_URL)" in block)
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()


@pytest.fixture
def app_config(stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend's `app.config`, with the field that it was told to add."""
    monkeypatch.setenv("ML_SERVICE_URL", stack)
    config = types.ModuleType("app.config")
    source = "from pydantic import Field\nfrom pydantic_settings import BaseSettings\n"
    source += f"class Settings(BaseSettings):\n{indent(CONFIG, '    ')}\nsettings = Settings()\n"
    exec(source, config.__dict__)  # noqa: S102 - it is above
    monkeypatch.setitem(sys.modules, "app", types.ModuleType("app"))
    monkeypatch.setitem(sys.modules, "app.config", config)


@pytest.mark.parametrize("source", [CLIENT, OURS], ids=["theirs", "ours"])
async def test_a_backends_client(source: str, app_config: None) -> None:
    module: dict[str, Any] = {}
    exec(source, module)  # noqa: S102 - a file of this folder, and a block of our docs
    ml_client = module["ml_client"]
    try:
        answer = await ml_client.inference("bert", {"text": "hi"})
        assert len(answer["output"]["embedding"]) == 384
        assert (answer["model"], answer["version"]) == ("bert", "1")
        with pytest.raises(httpx.HTTPStatusError) as caught:
            await ml_client.inference("bert", {"txt": "hi"})
        assert caught.value.response.status_code == 422
        assert caught.value.response.json()["code"] == "invalid_input"
    finally:
        await ml_client.close()


def test_the_pages_show_it_verbatim() -> None:
    for page in (PAGE, REPOSITORY / "README.md"):
        assert CLIENT in blocks(page, "python"), page.name


@pytest.fixture
def backend(stack_server: EmbeddedServer, stack: str, models_file: Path) -> Iterator[tuple[httpx.Client, bool]]:
    """A client of examples/backend.py, and whether the service delivers webhooks."""
    port = free_port()
    with api(stack_server.url, models_file, ML_OUTBOUND_ALLOW="127.0.0.0/8") as url:
        hooks = "/v1/webhooks/secret" in httpx.get(f"{url}/openapi.json", timeout=30).json()["paths"]
        here = {"ML_SERVICE_URL": url, "PUBLIC_URL": f"http://127.0.0.1:{port}"}
        here |= {"PYTHONPATH": str(REPOSITORY / "client")} | ({} if hooks else {"ML_WEBHOOK_SECRET": SECRET})
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "examples.backend:app", f"--port={port}", "--log-level=warning"],
            env=os.environ | here,
            cwd=REPOSITORY,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                wait_until(lambda: _answers(client), what="the backend")
                yield client, hooks
        finally:
            process.terminate()
            process.wait(20)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/openapi.json").status_code == 200
    except httpx.TransportError:
        return False


def test_the_example(backend: tuple[httpx.Client, bool]) -> None:
    client, hooks = backend
    assert len(client.post("/embed", json={"text": "hi"}).json()) == 384
    assert client.post("/embed", json={"text": "x" * 2_000_000}).status_code == 503
    if hooks:
        job = client.post("/reports", json={"text": "hi"}).json()["job"]
        wait_until(lambda: client.get(f"/reports/{job}").status_code == 200, what="the webhook")
        assert len(client.get(f"/reports/{job}").json()["output"]["embedding"]) == 384
        return
    body = {"id": "j1", "model": "bert", "version": "1", "state": "succeeded", "output": 1}
    sent = json.dumps({"type": "job.succeeded", "timestamp": "2026-01-01T00:00:00Z", "data": body}).encode()
    stamp = str(int(time.time()))
    headers = {"webhook-id": "m", "webhook-timestamp": stamp, "webhook-signature": signature(SECRET, "m", stamp, sent)}
    assert client.post("/hooks/ml-service", content=sent + b" ", headers=headers).status_code == 400
    assert client.get("/reports/j1").status_code == 404
    assert client.post("/hooks/ml-service", content=sent, headers=headers).status_code == 204
    assert client.get("/reports/j1").json() == {"state": "succeeded", "output": 1}
