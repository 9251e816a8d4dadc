"""A machine that has GPUs, for real processes: NVIDIA's own Python client, on a library that shows them."""

from __future__ import annotations

import os
from pathlib import Path

from tests.preload import library

UUIDS = (
    "GPU-11111111-2222-3333-4444-aaaaaaaaaaaa",
    "GPU-11111111-2222-3333-4444-bbbbbbbbbbbb",
    "GPU-99999999-2222-3333-4444-cccccccccccc",
)


def machine(locks: Path, *, gpus: int = 3) -> dict[str, str]:
    """The environment of a process on it; with none it has no driver."""
    folder = library("nvml", "libnvidia-ml.so.1").parent
    return {
        "LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":"),
        "FAKE_GPUS": ",".join(UUIDS[:gpus]),
        "ML_DEVICE": "auto",
        "ML_LOCK_DIR": str(locks),
    }
