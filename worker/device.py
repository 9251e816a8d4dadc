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
from worker.gpus import HIDDEN, Gpu, all_gpus, restrict

logger = get_logger("worker")

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(slots=True)
class Device:
    """`name` is torch's ("cpu", "cuda:0": each worker sees its own GPU alone). `lock` keeps the claim, for as long as
    the process lives."""

    name: str
    gpu: Gpu | None = None
    lock: int | None = None

    def node(self, worker: str) -> str:
        """The worker's name for Celery, and so in Flower: with its GPU, if it has one, and its host."""
        return f"{worker}{'' if self.gpu is None else f'-gpu{self.gpu.index}'}@{os.uname().nodename}"


def claim_device(settings: Settings) -> Device:
    """The first free GPU that this process may see, or the CPU where there is none. Sets CUDA_VISIBLE_DEVICES, so
    torch must not be imported yet. Raises ConfigError when all GPUs are taken: the restart policy tries again."""
    if settings.device == "cpu":
        return Device("cpu")
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported before the device was claimed")
    gpus = _candidates(settings)
    if not gpus:
        if settings.device == "cuda":
            raise ConfigError("ML_DEVICE is cuda, but no GPU is visible")
        return Device("cpu")
    for slot in range(settings.gpu_slots):
        for gpu in gpus:
            lock = try_lock(settings.lock_dir / f"{gpu.uuid}.{slot}.lock")
            if lock is not None:
                os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
                os.environ[_VISIBLE] = gpu.uuid
                logger.info(Event.DEVICE_CLAIMED, gpu=gpu.index, uuid=gpu.uuid, name=gpu.name, slot=slot)
                return Device("cuda:0", gpu, lock)
    raise ConfigError(_none_free(settings, gpus))


def _candidates(settings: Settings) -> list[Gpu]:
    """What CUDA_VISIBLE_DEVICES and ML_DEVICE leave to choose from, in that order."""
    there, asked = all_gpus(), os.environ.get(_VISIBLE)
    gpus = restrict(there, asked)
    if there and not gpus and asked not in HIDDEN:
        known = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in there)
        raise ConfigError(f"{_VISIBLE}={asked} names no GPU of this machine: {known}. Empty or -1 hides them all")
    if settings.device not in ("auto", "cuda"):
        gpus = [gpu for gpu in gpus if gpu.uuid == settings.device]
        if not gpus:
            raise ConfigError(f"ML_DEVICE: no GPU {settings.device!r} is visible")
    return gpus


def _none_free(settings: Settings, gpus: list[Gpu]) -> str:
    count = "the one visible GPU has" if len(gpus) == 1 else f"each of the {len(gpus)} visible GPUs has"
    text = f"no GPU is free: {count} its {settings.gpu_slots} worker(s)"
    asked = os.environ.get(_VISIBLE)
    if settings.device not in ("auto", "cuda"):
        return f"{text}; ML_DEVICE lets this worker take no other"
    if asked is not None:
        only = "only one GPU" if len(gpus) == 1 else f"only {len(gpus)} GPUs"
        return f"{text}; {_VISIBLE}={asked} lets workers see {only}: unset it to have as many workers as GPUs"
    return text


def try_lock(path: Path) -> int | None:
    """The descriptor that holds the lock, closed on exec; None where another process holds it. Raises ConfigError where
    the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ConfigError(f"ML_LOCK_DIR: {path}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
