"""What a process has freed stays its own, and goes back when it is told to; in processes of their own, on glibc."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_TOUCH = """
import resource, sys
import torch
from worker.heap import keep_heap, trim_heap
from worker.memory import host_bytes

kept = keep_heap() if "keep" in sys.argv else None

def faults():
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(20_000_000, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun

faults()
again, before = faults(), host_bytes()
trim_heap()
print(kept, again, before - host_bytes())
"""


def _run(*arguments: str, **env: str) -> tuple[str, int, int]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    told = subprocess.run(
        [sys.executable, "-c", _TOUCH, *arguments], env=own | env, capture_output=True, text=True, check=True
    ).stdout.split()
    return told[0], int(told[1]), int(told[2])


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it does nothing elsewhere")
def test_what_was_freed_is_kept_until_it_is_trimmed() -> None:
    _, mapped_anew, _ = _run(MALLOC_MMAP_THRESHOLD_="1000000")
    kept, again, trimmed = _run("keep")
    assert kept == "True"
    assert mapped_anew > 20 * 1000, "without it each is mapped, and its pages fault"
    assert again < 1000
    assert trimmed > 10_000_000


@pytest.mark.long
def test_what_the_environment_says_stands() -> None:
    assert _run("keep", MALLOC_ARENA_MAX="4")[0] == "False"
