"""Which GPUs this process may see. Asks NVML, never CUDA: looking must not touch a device that may be another's."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
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


class Readings:
    """What one GPU tells of itself now; None where it does not tell. For one thread at a time."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._handle: Any = None

    def memory_used_bytes(self) -> float | None:
        """By all processes on it."""
        return self._ask(lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used)

    def memory_total_bytes(self) -> float | None:
        """All it has."""
        return self._ask(lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total)

    def utilization(self) -> float | None:
        """The share of the last moments (a sixth of a second to a second) in which a kernel ran on it."""
        return self._ask(lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)

    def temperature_c(self) -> float | None:
        """Of the chip, in degrees Celsius."""
        return self._ask(_temperature)

    def _ask(self, what: Callable[[Any, Any], float]) -> float | None:
        import pynvml

        try:
            if self._handle is None:
                pynvml.nvmlInit()  # and never shut down: it takes a while
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)
            return float(what(pynvml, self._handle))
        except pynvml.NVMLError_NotSupported:
            return None
        except pynvml.NVMLError:
            self._handle = None
            return None


def _temperature(nvml: Any, gpu: Any) -> float:
    try:
        return float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
    except nvml.NVMLError_FunctionNotFound:  # gone with CUDA 14; what follows it is not in older drivers
        return float(nvml.nvmlDeviceGetTemperatureV(gpu, nvml.NVML_TEMPERATURE_GPU))


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
