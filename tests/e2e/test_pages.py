"""The pages, as a reader types them: each block of shell runs, in the page's order, in a folder like a checkout where
`ml-service up` runs. A new block or page runs too, unless it stands below with the reason why not."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.processes import REPOSITORY

ELSEWHERE = {
    "docs/batches.md": "tests/integration/test_batches_page.py runs it",
    "docs/cli.md": "tests/e2e/test_cli.py runs it",
    "docs/client.md": "it installs the client; client/tests/test_docs.py runs its Python",
    "docs/containers.md": "Docker: `make compose-test`",
    "docs/kubernetes.md": "a cluster, a registry and Helm: `make chart-test`",
    "docs/operations.md": "it asks a person, and needs Flower's password: tests/e2e/test_cli.py and test_flower.py",
    "docs/providers.md": "Docker, and accounts of clouds: tests/e2e/test_provider_openai.py",
}
NOT_RUN = {  # by how the block begins
    "make demo": "it installs, and runs the tests themselves",
    "make up": "the service runs already",
    "make install": "it installs, and the service runs already",
    "docker compose up": "Docker: `make compose-test`",
    "ML_WEBHOOK_DELIVERY=off": "processes that run until they are stopped: tests/e2e/test_webhooks.py",
    "curl -s -X POST localhost:8001/v1/dead/": "it takes workers that die: tests/integration/test_api_dead.py",
}
SETTINGS = {"docs/keys.md": {"ML_AUTH": "on"}}
JOB_ID = r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
FILLED = {  # what a reader puts in from what was answered before
    "c5f3edde-7d1b-4787-bb57-854dba8915dd": JOB_ID,
    "JOB_ID": JOB_ID,
    "BATCH_ID": r"batch_[0-9a-f]{32}",
    "mls_...": r"mls_[\w-]{20,}",
}
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text()


def shell(page: str) -> list[str]:
    return [block for language, block in FENCED.findall(text_of(page)) if language == "bash"]


ALL = ["README.md", *sorted(path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("docs/**/*.md"))]
WITH_SHELL = [page for page in ALL if shell(page)]


@contextmanager
def service(folder: Path, **settings: str) -> Iterator[tuple[str, dict[str, str]]]:
    """`ml-service up` in the folder; where its API is (HOST:PORT), and the environment of who types there."""
    for name in ("examples", "tests"):
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copy(REPOSITORY / "models.yaml", folder)
    env = {name: value for name, value in os.environ.items() if not name.startswith("ML_")} | settings
    env |= {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/client", "ML_DEVICE": "cpu", "ML_CALIBRATE_S": "0"}
    env["PATH"] = f"{_programs(folder)}:{env['PATH']}"
    log = folder / "up.log"
    command = [sys.executable, "-m", "local", "up", "--port", "0", "--flower-port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output)

    def says(words: str) -> bool:
        assert process.poll() is None, log.read_text()
        return words in log.read_text()

    try:
        if settings.get("ML_AUTH") == "on":
            wait_until(lambda: says("keys create"), timeout_s=60, what="it waits for the first key")
            first = [sys.executable, "-m", "api", "keys", "create", "--name", "first", "--scope", "admin"]
            subprocess.run(first, cwd=folder, env=env, check=True, capture_output=True)
        wait_until(lambda: says("ready after"), timeout_s=100, what="ready")
        url = json.loads((folder / ".ml-service" / "state.json").read_text())["api_url"]
        yield url.removeprefix("http://"), env | {"ML_SERVICE_URL": url}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _programs(folder: Path) -> Path:
    """What the pages type: our Python and command line, and a curl that fails with an answer that is an error."""
    curl = shutil.which("curl")
    assert curl, "the pages ask by curl"
    lines = {
        "python": f'{sys.executable} "$@"',
        "ml-service": f'{sys.executable} -m ml_service_client.cli "$@"',
        "curl": f'{curl} --fail-with-body "$@"',
    }
    programs = folder / "bin"
    programs.mkdir()
    for name, line in lines.items():
        (programs / name).write_text(f"#!/bin/sh\nexec {line}\n")
        (programs / name).chmod(0o755)
    return programs


def run(block: str, folder: Path, env: dict[str, str]) -> str:
    """What it says; what it exports is there for the next one."""
    script = f"touch .exports; source ./.exports; set -eo pipefail\n{block}\nexport -p >.exports\n"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def values(text: str) -> list[Any]:
    """The JSON objects in it, whatever is between them."""
    found, at, decoder = [], text.find("{"), json.JSONDecoder()
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
            found.append(value)
        except ValueError:
            end = at + 1
        at = text.find("{", end)
    return found


def fits(shown: Any, said: Any) -> bool:
    """Whether what was said has all that is shown: the fields, and the words without a digit. Numbers, ids and instants
    are others each time."""
    if isinstance(shown, dict):
        return isinstance(said, dict) and all(name in said and fits(shown[name], said[name]) for name in shown)
    if isinstance(shown, list):
        return isinstance(said, list) and all(fits(*pair) for pair in zip(shown, said, strict=False))
    return not isinstance(shown, str) or re.search(r"\d|\.\.\.", shown) is not None or shown == said


@pytest.mark.parametrize("page", [page for page in WITH_SHELL if page not in ELSEWHERE])
def test_the_page_runs(page: str, tmp_path: Path) -> None:
    """JSON that stands right behind a block of shell, with one line between them at most, is what that answers."""
    text, said, last, end = text_of(page), "", "", 0
    with service(tmp_path, **SETTINGS.get(page, {})) as (here, env):
        for fence in FENCED.finditer(text):
            language, block = fence[1], fence[2].replace("localhost:8001", here).replace("127.0.0.1:8001", here)
            between, end = text[end : fence.start()].strip(), fence.end()
            name = re.match(r"# (\S+\.py)\n", block)
            if language == "json" and last and "\n" not in between and not between.startswith("#"):
                for shown in values(block):
                    assert any(fits(shown, value) for value in values(last)), f"{shown}\n{last}"
            last = ""
            if language == "python" and name:
                (tmp_path / name[1]).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name[1]).write_text(block)
            elif language == "python" and block.startswith("from ml_service_client"):
                subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=env, check=True, timeout=100)
            elif language == "bash" and not fence[2].startswith(tuple(NOT_RUN)):
                for word, pattern in FILLED.items():
                    if word in block:
                        block = block.replace(word, re.findall(pattern, said)[-1])
                last = run(block, tmp_path, env)
                said += last


def test_what_is_not_run_is_there() -> None:
    assert set(ELSEWHERE) <= set(WITH_SHELL)
    here = [block for page in WITH_SHELL if page not in ELSEWHERE for block in shell(page)]
    assert [begin for begin in NOT_RUN if not any(block.startswith(begin) for block in here)] == []
