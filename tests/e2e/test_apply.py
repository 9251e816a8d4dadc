"""`ml-service apply` and `rollback`: as a person runs them against a running service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.processes import REPOSITORY, api, worker

pytestmark = pytest.mark.long

MODELS = """
models:
  toy:
    handler: tests/e2e/versioned.py:Versioned
    versions: {"1": {says: one}}
  echo: {task: echo, versions: {"1": {}}}
"""
CHANGED = """
models:
  toy:
    handler: tests/e2e/versioned.py:Versioned
    versions: {2: {says: two}}
"""


@pytest.fixture
def http(redis_url: str, models: Path) -> Iterator[httpx.Client]:
    with (
        worker(redis_url, models, ML_HEARTBEAT_S="0.5"),
        api(redis_url, models) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def command(http: httpx.Client, *words: str, answer: str = "") -> tuple[int, str]:
    """Exit code and all that it said."""
    run = subprocess.run(
        [sys.executable, "-c", "from ml_service_client.cli import main; main()", *words],
        env=os.environ | {"ML_SERVICE_URL": str(http.base_url)},
        cwd=REPOSITORY,
        input=answer,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def says(http: httpx.Client) -> str:
    told: str = http.post("/inference", json={"model_type": "toy", "data": {}}).json()["output"]["says"]
    return told


def test_apply_and_roll_back(http: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text(CHANGED)
    code, told = command(http, "apply", str(file), answer="n\n")
    assert code == 1
    assert "+ toy.versions.2.says: two\n" in told
    assert "- toy.versions.1.says: one\n" in told
    assert "- echo.task: echo\n" in told
    assert says(http) == "one", "nobody has said yes"
    code, told = command(http, "apply", str(file), "--yes")
    assert (code, "callers get it" in told) == (0, True), told
    assert says(http) == "two"
    assert [entry["id"] for entry in http.get("/v1/models").json()["data"]] == ["toy"]
    code, told = command(http, "apply", str(file))
    assert (code, told) == (0, "nothing to change\ncallers get it\n")
    code, told = command(http, "rollback", "toy")
    assert (code, "+ toy.versions.1.says: one" in told, says(http)) == (0, True, "one")


def test_what_is_wrong_is_told(http: httpx.Client, tmp_path: Path) -> None:
    file, broken = tmp_path / "new.yaml", tmp_path / "broken"
    file.write_text("models: {toy: {task: nonsense, versions: {1: {}}}}")
    code, told = command(http, "apply", str(file), "-y")
    assert code == 1
    assert "/models/toy: Value error, unknown task 'nonsense'" in told
    broken.touch()
    file.write_text(CHANGED.replace("says: two", f"says: two, broken: {broken}"))
    code, told = command(http, "apply", str(file), "-y")
    assert code == 1
    assert "version 2 on w1: OSError: no weights here" in told
    assert says(http) == "one"
    assert command(http, "rollback", "toy")[0] == 0
    file.write_text("models: [")
    assert "new.yaml" in command(http, "apply", str(file))[1]
    code, told = command(http, "rollback", "nobody")
    assert (code, "no model 'nobody'" in told) == (1, True)
    run = subprocess.run(
        [sys.executable, "-c", "from ml_service_client.cli import main; main()", "rollback", "toy"],
        env=os.environ | {"ML_SERVICE_URL": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (run.returncode, "no service answers at http://127.0.0.1:9" in run.stderr) == (1, True)
