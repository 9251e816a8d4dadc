"""How much memory there is, and how much a model takes: the device's, or the host's where the device is the CPU."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from shared.model_spec import ModelSpec, VersionSpec
from shared.settings import Settings
from worker.gpus import visible_gpus
from worker.heap import trim_heap
from worker.sources import WEIGHTS, here, resolve

_SHARE = 0.8  # of the whole; the rest is for activations, and for who else is there
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def host_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def device_bytes(device: str) -> int:
    """What torch has given to tensors there; 0 for the CPU, and while no model has imported torch."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return 0
    return int(torch.cuda.memory_allocated(device))


def budget_bytes(settings: Settings, device: str) -> int:
    """For the models of one worker: ML_MODEL_MEMORY, or a share of the claimed GPU's memory, less where workers share
    it (of the container's limit or the machine's memory where the device is the CPU). Makes no CUDA context: not every
    model wants one."""
    if settings.model_memory:
        return settings.model_memory
    if device.startswith("cuda"):
        (gpu,) = visible_gpus()
        return int((gpu.memory_bytes or _host_total()) * _SHARE / settings.gpu_slots)
    return int(_host_total() * _SHARE)


def file_bytes(spec: ModelSpec, version: VersionSpec, settings: Settings) -> int:
    """About what a version will take, by its files of weights; 0 where they are not here yet or say nothing. Raises
    ConfigError for a source that cannot be found."""
    weights = version.options.get("weights")
    path = Path(resolve(str(weights), settings)) if weights else here(spec, version, settings)
    if path is None or not path.exists():
        return 0
    if path.is_file():
        return path.stat().st_size
    found = [file for file in path.rglob("*") if file.suffix in WEIGHTS and file.is_file()]
    for suffix in WEIGHTS:  # the same weights may lie there in several formats
        if sizes := [file.stat().st_size for file in found if file.suffix == suffix]:
            return sum(sizes)
    return 0


def free() -> None:
    """Give back what nobody refers to any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()


def _host_total() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(_CGROUP.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return total
