"""Which GPUs this process may see. Asks NVML, never CUDA: looking must not touch a device that may be another's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HIDDEN = ("", "-1")  # values of CUDA_VISIBLE_DEVICES that hide all GPUs on purpose


@dataclass(frozen=True, slots=True)
class Gpu:
    """`index` in the order of the PCI bus, among those that this machine or container has; `memory_bytes`: all of it,
    0 where it has none of its own (it shares the host's)."""

    index: int
    uuid: str
    name: str
    memory_bytes: int


def all_gpus() -> list[Gpu]:
    """None where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [
            Gpu(
                index,
                str(pynvml.nvmlDeviceGetUUID(handle)),
                str(pynvml.nvmlDeviceGetName(handle)),
                _memory_bytes(handle),
            )
            for index, handle in enumerate(handles)
        ]
    finally:
        pynvml.nvmlShutdown()


def _memory_bytes(handle: Any) -> int:
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError_NotSupported:
        return 0


def visible_gpus() -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES shows: after a claim the claimed one alone."""
    return restrict(all_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def restrict(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """`gpus` in the order and choice of a CUDA_VISIBLE_DEVICES value (indexes, UUIDs or their beginnings); as CUDA
    does, it ends at the first wrong one."""
    if visible is None:
        return list(gpus)
    chosen = []
    for name in (part.strip() for part in visible.split(",")):
        found = [gpu for gpu in gpus if name and (name == str(gpu.index) or gpu.uuid.startswith(name))]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return chosen
