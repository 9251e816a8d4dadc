"""What is preloaded changes what it says it changes, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.preload import library

CLOCKS = """
import datetime, threading, time
began = time.monotonic()
threading.Event().wait(0.05)
waited = time.monotonic() - began
print(time.time(), time.time_ns() / 1e9, datetime.datetime.now(datetime.UTC).timestamp(), time.monotonic(), waited)
"""
SYNCS = """
import os, sys, time
with open(sys.argv[1], "wb") as file:
    for sync in (os.fsync, os.fdatasync):
        began = time.monotonic()
        sync(file.fileno())
        print(time.monotonic() - began)
"""


def _run(program: str, *arguments: str, **env: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=os.environ | env, check=True, capture_output=True, text=True
    )
    return [float(word) for word in done.stdout.split()]


def test_the_wall_clock_is_shifted_and_durations_are_not() -> None:
    shifted = {"LD_PRELOAD": str(library("shift_clock"))}
    for shift_s in (3600, -7200, 0):
        *wall, monotonic, waited = _run(CLOCKS, CLOCK_SHIFT_S=str(shift_s), **shifted)
        assert [round((now - time.time() - shift_s) / 60) for now in wall] == [0, 0, 0]
        assert abs(monotonic - time.monotonic()) < 60
        assert 0.05 <= waited < 20


def test_syncs_take_longer(tmp_path: Path) -> None:
    preloaded = {"LD_PRELOAD": str(library("slow_sync"))}
    assert min(_run(SYNCS, str(tmp_path / "file"), SLOW_SYNC_MS="300", **preloaded)) >= 0.3
    undelayed = [_run(SYNCS, str(tmp_path / "file"), **preloaded) for _ in range(3)]
    assert min(min(times) for times in undelayed) < 0.3
