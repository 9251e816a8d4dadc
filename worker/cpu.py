"""How many threads of a CPU this worker may use: torch counts the machine's cores, not the container's share of them,
and threads beyond it are throttled together with those that do the work."""

from __future__ import annotations

import math
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup/cpu.max")  # https://docs.kernel.org/admin-guide/cgroup-v2.html, "quota period" in us


def quota(file: Path = _CGROUP) -> int | None:
    """The container's CPUs, rounded up; None where there is no limit, or no cgroup v2."""
    try:
        limit, period = file.read_text().split()
        return max(1, math.ceil(int(limit) / int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return None


def threads(asked: int, cores: int) -> int:
    """`asked` if it is not 0; else `cores`, torch's own choice, or the quota if that is less."""
    return asked or min(cores, quota() or cores)
