"""`make gpu` where it cannot run says so in one line, and fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fake_gpus import machine
from tests.processes import REPOSITORY


def _asked(env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu"],
        env=os.environ | env,
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


def test_no_gpu(tmp_path: Path) -> None:
    assert _asked(machine(tmp_path, gpus=0)) == "make gpu: no NVIDIA GPU is here (or no driver that shows one)"


def test_all_hidden(tmp_path: Path) -> None:
    env = machine(tmp_path) | {"CUDA_VISIBLE_DEVICES": "-1"}
    assert _asked(env) == "make gpu: CUDA_VISIBLE_DEVICES=-1 shows no GPU"


@pytest.mark.long
@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_torch_that_cannot_use_it(tmp_path: Path) -> None:
    said = _asked(machine(tmp_path) | {"CUDA_VISIBLE_DEVICES": "0"})
    assert said == f"make gpu: torch {torch.__version__} is a build without CUDA"


@pytest.mark.long
def test_the_tests_themselves_fail_without_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu"],
        env=os.environ | machine(tmp_path, gpus=0),
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no NVIDIA GPU is here" in done.stdout + done.stderr
