"""docs/migrate-celery.md, run as it stands: a hand-written Celery worker, and ml-service in its place."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import redis

from local.ports import free_port
from shared import keys
from shared.settings import Settings
from tests.conftest import wait_until
from tests.processes import REPOSITORY, api, worker
from worker.sources import model_folder, resolve

PAGE = REPOSITORY / "docs" / "migrate-celery.md"
BLOCKS = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
# `celery`, where a torchvision for CUDA may lie beside a torch for the CPU: transformers could not be imported then.
CELERY = """
from worker.compat import install_torchvision_ops
install_torchvision_ops()
from celery.__main__ import main
main()
"""
TEXT = "A queue keeps what it was given."

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("tasks.py", "main.py", "models.yaml"):
        (tmp_path / name).write_text(BLOCKS[name])
    return tmp_path


@contextmanager
def running(line: str, folder: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A line of the page, in its folder."""
    program, *arguments = shlex.split(line)
    command = [sys.executable, "-m", program, *arguments]
    if program == "celery":
        command = [sys.executable, "-c", CELERY, *arguments]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | env)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def done(http: httpx.Client, path: str) -> object:
    """The result of a task of the backend's."""
    task = http.post(path, json={"text": TEXT}).json()["task_id"]
    seen: dict[str, object] = {}

    def ended() -> bool:
        seen.update(http.get(f"/tasks/{task}").json())
        assert seen["status"] != "FAILURE"
        return seen["status"] == "SUCCESS"

    wait_until(ended, timeout_s=100, what=f"{path} is done")
    return seen["result"]


def test_before_and_after(folder: Path, redis_url: str, store: redis.Redis) -> None:
    source = re.search(r"source: (\S+)}", BLOCKS["models.yaml"])
    assert source is not None
    model = model_folder(resolve(source[1], Settings()))
    env = {"REDIS_URL": redis_url, "MODEL_FOLDER": str(model), "PYTHONPATH": f"{folder}:{REPOSITORY}"}
    backend, old, rest = BLOCKS["before"].splitlines()
    assert [line.split("python -m ")[1] for line in BLOCKS["after"].splitlines()] == ["worker", "api"]
    port = free_port()
    with ExitStack() as both, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        both.enter_context(running(backend.replace("8000", str(port)), folder, env))
        both.enter_context(running(rest, folder, env))
        wait_until(lambda: _answers(http), what="the backend")
        with running(old, folder, env):
            before = done(http, "/embed")
            assert done(http, "/measure") == 384
        waiting = http.post("/embed", json={"text": TEXT}).json()["task_id"]
        assert http.get(f"/tasks/{waiting}").json()["status"] == "PENDING"
        with worker(redis_url, folder / "models.yaml"), api(redis_url, folder / "models.yaml") as service:
            after = done(http, "/embed")
            assert done(http, "/measure") == 384
            assert http.get(f"/tasks/{waiting}").json()["result"] == after, "what was queued meanwhile"
            assert httpx.get(f"{service}/v1/jobs/{waiting}").json()["output"] == after
        assert isinstance(before, list)
        assert isinstance(after, list)
        assert _cosine(before, after) > 0.9999
        assert int(store.hget(f"{keys.COUNTERS}embedder@1", "succeeded") or 0) == 3


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/openapi.json").status_code == 200
    except httpx.TransportError:
        return False


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
