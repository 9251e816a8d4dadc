"""A real API process on a server, for measures that need no whole stack."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import httpx

from benchmarks import workers
from local.ports import free_port
from local.server import tethered

ROOT = Path(__file__).resolve().parents[1]
START_S = 60.0


@contextlib.contextmanager
def api(redis_url: str, models: Path, **env: str) -> Iterator[tuple[str, int]]:
    """Its URL and process id. Raises RuntimeError where it does not start."""
    port = free_port()
    settings = {"ML_REDIS_URL": redis_url, "ML_MODELS_FILE": str(models), "ML_PORT": str(port)}
    process = subprocess.Popen(
        tethered([sys.executable, "-m", "api"], signal.SIGKILL),
        cwd=ROOT,
        env=os.environ | settings | {"ML_LOG_LEVEL": "ERROR"} | env,
        stdin=subprocess.DEVNULL,
    )
    url, give_up = f"http://127.0.0.1:{port}", perf_counter() + START_S
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            if process.poll() is not None or perf_counter() > give_up:
                raise RuntimeError("the API did not start")
            time.sleep(0.1)
        yield url, process.pid
    finally:
        workers.stop([process])
