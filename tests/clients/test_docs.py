"""The examples of docs/clients.md, each run by the client that it names: what it prints is what its comments say."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.clients.conftest import KEY
from tests.processes import REPOSITORY

PAGE = REPOSITORY / "docs" / "clients.md"
BLOCKS = re.findall(r"^```python (\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
PYTHONS = {"openai": ["main", "openai1"], "triton": ["main"], "kserve": ["kserve"], "http": ["main"]}
RUNS = [(of, block) for name, block in BLOCKS for of in PYTHONS[name]]

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


@pytest.mark.parametrize(("of", "block"), RUNS, ids=[f"{name}-{of}" for name, _ in BLOCKS for of in PYTHONS[name]])
def test_example(url: str, of: str, block: str) -> None:
    program = block.replace("http://127.0.0.1:8001", url).replace("127.0.0.1:8001", url.removeprefix("http://"))
    python = REPOSITORY / ".venv-clients" / of / "bin" / "python"
    command = [str(python), "-c", program.replace("your-key", KEY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == re.findall(r"^\s*print\(.*\)\s\s# (.*)$", block, re.MULTILINE)


def test_there_are_examples() -> None:
    assert {name for name, _ in BLOCKS} == set(PYTHONS)
