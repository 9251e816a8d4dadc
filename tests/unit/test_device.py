"""Claiming a device: locks between processes, and CUDA_VISIBLE_DEVICES as CUDA reads it. Whole workers that claim:
tests/e2e/test_gpu_pinning.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import ConfigError
from worker.device import try_lock
from worker.gpus import Gpu, restrict

UUIDS = ["GPU-aaaa", "GPU-abcd", "GPU-bbbb"]


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, UUIDS),
        ("", []),
        ("-1", []),
        ("1", ["GPU-abcd"]),
        ("2,0", ["GPU-bbbb", "GPU-aaaa"]),
        ("GPU-b", ["GPU-bbbb"]),
        ("GPU-a", []),  # ambiguous
        ("0,9,1", ["GPU-aaaa"]),  # ends at the first wrong one
        ("1,,2", ["GPU-abcd"]),
        ("0,GPU-aa,1", ["GPU-aaaa"]),  # a second time
    ],
)
def test_visible_devices(visible: str | None, seen: list[str]) -> None:
    gpus = [Gpu(index, uuid, "a GPU", 1) for index, uuid in enumerate(UUIDS)]
    assert [gpu.uuid for gpu in restrict(gpus, visible)] == seen


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "GPU-aaaa.0.lock"
    code = (
        "import sys, pathlib, worker.device as d\n"
        "print(d.try_lock(pathlib.Path(sys.argv[1])) is not None, flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    assert try_lock(path) is None
    holder.kill()
    holder.communicate()
    assert try_lock(path) is not None


def test_a_lock_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"ML_LOCK_DIR: .*/file/GPU-aaaa\.0\.lock: "):
        try_lock(tmp_path / "file" / "GPU-aaaa.0.lock")
