"""The client's exceptions are those of the service: it cannot import them, so they are written from them."""

from __future__ import annotations

import os
import subprocess
import sys

from ml_service_client import PROBLEMS

from api.errors import STATUS
from scripts import client_problems


def test_the_clients_exceptions_are_the_services() -> None:
    wanted = client_problems.text()
    assert client_problems.FILE.read_text() == wanted, "run: python -m scripts.client_problems"
    assert {code: kind.default_status for code, kind in PROBLEMS.items()} == STATUS


def test_the_client_needs_httpx_alone() -> None:
    code = "import sys, ml_service_client; print(*{name.partition('.')[0] for name in sys.modules})"
    env = os.environ | {"PYTHONPATH": str(client_problems.FILE.parents[1])}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    loaded = done.stdout.split()
    assert "httpx" in loaded
    for other in ("pydantic", "yaml", "typer", "tqdm", "numpy", "redis", "orjson", "shared", "api"):
        assert other not in loaded, other
