"""glibc's heap, told to keep what a forward has freed.

A forward of a CPU model frees activations of tens of megabytes and asks for as much again at once. By default glibc
maps each anew and gives it back to the kernel, which fills it with zeros, page by page: for EfficientNet-Lite0 at 16
photographs a pass 12,000 page faults an image, and half of the throughput (docs/benchmarks/limits.md). torch's own
advice is another allocator (https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html); these parameters
need no other package. https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE, _MOST = 1 << 30, (1 << 31) - 1  # bytes; mallopt takes an int
_OWN = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_heap() -> bool:
    """Once, before other threads allocate. False, and nothing is done, where the C library is not glibc, or where the
    environment says how it is to allocate."""
    if any(name.startswith(_OWN) for name in os.environ) or (c := _glibc()) is None:
        return False
    # One arena: that of another thread is made of pieces of 64 MB at most, and what is larger is mapped all the same.
    return all([c.mallopt(_M_ARENA_MAX, 1), c.mallopt(_M_MMAP_THRESHOLD, _LARGE), c.mallopt(_M_TRIM_THRESHOLD, _MOST)])


def trim_heap() -> None:
    """Give back to the system what is free, as after a model has gone."""
    if (c := _glibc()) is not None:
        c.malloc_trim(0)


@cache
def _glibc() -> Any:
    """None where it is another."""
    try:
        c = ctypes.CDLL(None)
        return c if hasattr(c, "gnu_get_libc_version") else None
    except (OSError, TypeError):  # TypeError: Windows
        return None
