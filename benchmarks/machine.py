"""What the machine is, and what else runs on it: CPU time from /proc (Linux)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "celery", "kombu", "redis", "uvicorn", "uvloop", "fastapi")


def describe() -> dict[str, Any]:
    """Processor, memory, versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = {flag for flag in cpu.get("flags", "").split() if flag.startswith(("avx512", "avx2", "amx"))}
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "family_model": f"{cpu.get('cpu family')}/{cpu.get('model')}",
        "vector_units": sorted(flags),
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def tree(root: int) -> list[int]:
    """`root` and all that descends from it now."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            parents[int(entry)] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of these processes so far, user and system; a process that has gone counts nothing."""
    return sum((int(fields[11]) + int(fields[12])) * TICK_S for pid in pids if (fields := _stat(pid)))


def family_s() -> float:
    """CPU seconds of this process and of all its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """What /proc/<pid>/status says of its memory: resident now, or `VmHWM`, the most ever."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field}")


def busy_s() -> float:
    """CPU seconds of the whole machine so far; steal, which is another machine's work, counts too."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, _first_line("/proc/stat").split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK_S


@dataclass(slots=True)
class Usage:
    """Of a stretch of time. `foreign`: cores that neither the stack nor this process used, on average."""

    wall_s: float
    stack_s: float
    own_s: float
    foreign: float


class Meter:
    """Usage from its making to `read`."""

    def __init__(self, *stack: int) -> None:
        """`stack` are the roots of the service's processes."""
        self._pids = [pid for root in stack for pid in tree(root)]
        self._before = self._look()

    def read(self) -> Usage:
        """May be read again."""
        wall, busy, stack, own = (now - before for now, before in zip(self._look(), self._before, strict=True))
        return Usage(wall, stack, own, max(0.0, busy - stack - own) / wall)

    def _look(self) -> tuple[float, float, float, float]:
        return perf_counter(), busy_s(), cpu_s(self._pids), cpu_s([os.getpid()])


class Foreign:
    """What others use from its making on, where all children begin later and have ended when `cores` is asked."""

    def __init__(self) -> None:
        self._begun, self._before = perf_counter(), busy_s() - family_s()

    def cores(self) -> float:
        """That neither this process nor its children used, on average."""
        return max(0.0, busy_s() - family_s() - self._before) / (perf_counter() - self._begun)


def _stat(pid: int) -> list[str]:
    """The fields behind the name; empty when it has gone. [1] parent, [11] user ticks, [12] system ticks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _first_line(path: str) -> str:
    with open(path) as file:
        return file.readline()
