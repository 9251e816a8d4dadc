"""`make demo-update`, as a person runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.processes import REPOSITORY


@pytest.mark.slow
def test_the_demo_shows_an_update_in_which_no_call_fails(tmp_path: Path) -> None:
    picture = tmp_path / "update.png"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "examples.demo_update", "--port", "0", "--flower-port", "0"),
            *("--seconds", "4", "--picture", str(picture)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "No call failed" in run.stdout
    with Image.open(picture) as image:
        assert image.format == "PNG"
