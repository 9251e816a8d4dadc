"""Claiming a device: locks between processes, and CUDA_VISIBLE_DEVICES as CUDA reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.device import _try_lock, restrict

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
    ],
)
def test_visible_devices(visible: str | None, seen: list[str]) -> None:
    assert restrict(UUIDS, visible) == seen


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "GPU-aaaa.0.lock"
    code = (
        "import sys, pathlib, worker.device as d\n"
        "print(d._try_lock(pathlib.Path(sys.argv[1])) is not None, flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    assert _try_lock(path) is None
    holder.kill()
    holder.communicate()
    assert _try_lock(path) is not None
