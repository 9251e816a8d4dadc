"""The examples of docs/client.md, each run against a live service: what it prints is what its comments say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
EXAMPLE = Path(__file__).parents[2] / "examples" / "backend.py"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL) if PAGE.exists() else []
RUN = [block for block in BLOCKS if "ML_SERVICE_URL" not in block and "@" not in block]
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="no checkout here")


def said(block: str) -> list[str]:
    """What the comments behind print, and those that follow alone, say."""
    return [match[1] for match in re.finditer(r"^(?:\s*print\(.*\)\s\s|\s+)# (.*)$", block, re.MULTILINE)]


@pytest.mark.parametrize("block", RUN, ids=range(len(RUN)))
def test_example(block: str, url: str, bert: None) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        env={"ML_SERVICE_URL": url, "PYTHONPATH": str(PAGE.parents[1] / "client")},
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == said(block)


def test_there_are_examples() -> None:
    assert len(RUN) >= 8
    assert sum(len(said(block)) for block in RUN) >= 15


def test_the_backend_is_quoted_as_it_is() -> None:
    quoted = [block for block in BLOCKS if "@" in block]
    assert len(quoted) == 2
    for block in quoted:
        assert block in EXAMPLE.read_text()
