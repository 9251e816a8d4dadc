"""Real worker processes on a server, for measures that need no API and no model worth the name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis

from local.server import tethered
from shared import keys

ROOT = Path(__file__).resolve().parents[1]
START_S, STOP_S = 120.0, 60.0


def start(redis_url: str, models: Path, name: str, **env: str) -> subprocess.Popen[bytes]:
    """One `python -m worker`, not yet ready; it cannot outlive this process."""
    settings = {"ML_REDIS_URL": redis_url, "ML_MODELS_FILE": str(models), "ML_WORKER_NAME": name, "ML_DEVICE": "cpu"}
    return subprocess.Popen(
        tethered([sys.executable, "-m", "worker"], signal.SIGKILL),
        cwd=ROOT,
        env=os.environ | settings | {"ML_LOG_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"} | env,
        stdin=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def running(redis_url: str, models: Path, names: Sequence[str], **env: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many more, all ready when it yields; none of them runs afterwards. Raises RuntimeError where one does not
    start or stop."""
    with redis.Redis.from_url(redis_url) as store:
        before = len(store.keys(f"{keys.WORKER}*"))
        processes = [start(redis_url, models, name, **env) for name in names]
        try:
            give_up = time.monotonic() + START_S
            while len(store.keys(f"{keys.WORKER}*")) < before + len(names):
                if time.monotonic() > give_up or any(process.poll() is not None for process in processes):
                    raise RuntimeError("a worker did not start")
                time.sleep(0.05)
            yield processes
        finally:
            stop(processes)


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to all that still run. Raises RuntimeError where one does not end; it is killed then."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError("a worker did not stop") from None
