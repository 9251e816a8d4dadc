"""One worker process, one device: claim a GPU before torch is imported.

A lock on a file named by the GPU's UUID, held for the life of the process: the kernel frees it at any death, and it
needs neither a clock nor Redis. Replicas in containers must share the lock folder (a named volume).
"""

from __future__ import annotations

import fcntl
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigError
from shared.logs import Event, get_logger
from shared.settings import Settings

logger = get_logger("worker")


@dataclass(slots=True)
class Device:
    """`name` is torch's ("cpu", "cuda:0"); `uuid` the GPU's. `lock` keeps the claim: hold on to it."""

    name: str
    uuid: str | None = None
    lock: int | None = None


def claim_device(settings: Settings) -> Device:
    """The first free GPU that this process may see, or the CPU where there is none. Sets CUDA_VISIBLE_DEVICES, so
    torch must not be imported yet. Raises ConfigError when all GPUs are taken: the restart policy tries again."""
    if settings.device == "cpu":
        return Device("cpu")
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported before the device was claimed")
    uuids = visible_gpus()
    if settings.device not in ("auto", "cuda"):
        uuids = [uuid for uuid in uuids if uuid == settings.device]
        if not uuids:
            raise ConfigError(f"ML_DEVICE: no GPU {settings.device!r} is visible")
    if not uuids:
        if settings.device == "cuda":
            raise ConfigError("ML_DEVICE is cuda, but no GPU is visible")
        return Device("cpu")
    for slot in range(settings.gpu_slots):
        for uuid in uuids:
            lock = _try_lock(settings.lock_dir / f"{uuid}.{slot}.lock")
            if lock is not None:
                os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
                os.environ["CUDA_VISIBLE_DEVICES"] = uuid
                logger.info(Event.DEVICE_CLAIMED, uuid=uuid, slot=slot)
                return Device("cuda:0", uuid, lock)
    pinned = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = f" CUDA_VISIBLE_DEVICES={pinned} lets this worker see only {len(uuids)}: unset it to scale." if pinned else ""
    raise ConfigError(f"all {len(uuids)} visible GPUs have their {settings.gpu_slots} worker(s).{why}")


def visible_gpus() -> list[str]:
    """UUIDs by NVML, restricted by CUDA_VISIBLE_DEVICES (indexes or UUIDs; empty or -1 hides all)."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        uuids = [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()
    return restrict(uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))


def restrict(uuids: list[str], visible: str | None) -> list[str]:
    """`uuids` in the order and choice of a CUDA_VISIBLE_DEVICES value; as CUDA does, it ends at the first wrong one."""
    if visible is None:
        return uuids
    chosen = []
    for name in filter(None, (part.strip() for part in visible.split(","))):
        found = [u for i, u in enumerate(uuids) if name == str(i) or u.startswith(name)]
        if len(found) != 1:
            break
        chosen += found
    return chosen


def _try_lock(path: Path) -> int | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
