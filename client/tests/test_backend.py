"""What a backend has: the client that many have already, verbatim; ours in its place; and examples/backend.py."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
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
from conftest import wait_until

from ml_service_client.webhooks import signature

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "client.md"
if not PAGE.exists():
    pytest.skip("no checkout here", allow_module_level=True)


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


CLIENT = (Path(__file__).parent / "seed_client.py.txt").read_text()
CONFIG = """ML_SERVICE_URL: str = Field(
    default="http://ml-service:8001",
    description="ML service URL (Docker) or external API URL"
)
"""
OURS = next(block for block in blocks(PAGE) if "MLServiceClient(settings.ML_SERVICE_URL)" in block)


@pytest.fixture
def app_config(url: str, bert: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend's `app.config`, with the field that it was told to add."""
    monkeypatch.setenv("ML_SERVICE_URL", url)
    config = types.ModuleType("app.config")
    source = "from pydantic import Field\nfrom pydantic_settings import BaseSettings\n"
    source += f"class Settings(BaseSettings):\n{indent(CONFIG, '    ')}\nsettings = Settings()\n"
    exec(source, config.__dict__)  # noqa: S102 - it is above
    monkeypatch.setitem(sys.modules, "app", types.ModuleType("app"))
    monkeypatch.setitem(sys.modules, "app.config", config)


@pytest.mark.parametrize("source", [CLIENT, OURS], ids=["theirs", "ours"])
def test_a_backends_client(source: str, app_config: None) -> None:
    module: dict[str, Any] = {}
    exec(source, module)  # noqa: S102 - a file of this folder, and a block of our docs
    ml_client = module["ml_client"]

    async def use() -> None:
        answer = await ml_client.inference("bert", {"text": "hi"})
        assert len(answer["output"]["embedding"]) == 384
        assert (answer["model"], answer["version"]) == ("bert", "1")
        with pytest.raises(httpx.HTTPStatusError) as caught:
            await ml_client.inference("bert", {"txt": "hi"})
        assert caught.value.response.status_code == 422
        assert caught.value.response.json()["code"] == "invalid_input"
        await ml_client.close()

    asyncio.run(use())


def test_the_pages_show_it_verbatim() -> None:
    for page in (PAGE, ROOT / "README.md"):
        assert CLIENT in blocks(page), page.name


@pytest.fixture
def backend(url: str, bert: None) -> Iterator[httpx.Client]:
    """A client of examples/backend.py."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    here = {"ML_SERVICE_URL": url, "PUBLIC_URL": f"http://127.0.0.1:{port}", "PYTHONPATH": str(ROOT / "client")}
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "examples.backend:app", f"--port={port}", "--log-level=warning"],
        env=os.environ | here,
        cwd=ROOT,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until(lambda: _answers(client))
            yield client
    finally:
        process.terminate()
        process.wait(20)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/openapi.json").status_code == 200
    except httpx.TransportError:
        return False


def test_the_example(backend: httpx.Client) -> None:
    assert len(backend.post("/embed", json={"text": "hi"}).json()) == 384
    assert backend.post("/embed", json={"text": "x" * 2_000_000}).status_code == 503


def test_the_service_calls_the_example(backend: httpx.Client) -> None:
    job = backend.post("/reports", json={"text": "hi"}).json()["job"]
    wait_until(lambda: backend.get(f"/reports/{job}").status_code == 200)
    assert len(backend.get(f"/reports/{job}").json()["output"]["embedding"]) == 384


def test_the_example_believes_nothing_that_is_not_signed(backend: httpx.Client, url: str) -> None:
    secret = httpx.get(f"{url}/v1/webhooks/secret").json()["secret"]
    body = {"id": "j1", "model": "bert", "version": "1", "state": "succeeded", "output": 1}
    sent = json.dumps({"type": "job.succeeded", "timestamp": "2026-01-01T00:00:00Z", "data": body}).encode()
    stamp = str(int(time.time()))
    headers = {"webhook-id": "m", "webhook-timestamp": stamp, "webhook-signature": signature(secret, "m", stamp, sent)}
    assert backend.post("/hooks/ml-service", content=sent + b" ", headers=headers).status_code == 400
    assert backend.get("/reports/j1").status_code == 404
    for _ in range(2):
        assert backend.post("/hooks/ml-service", content=sent, headers=headers).status_code == 204
    assert backend.get("/reports/j1").json() == {"state": "succeeded", "output": 1}
