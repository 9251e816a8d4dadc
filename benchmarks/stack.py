"""The service under test: `local up` as it is, in processes of its own, on a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local.server import tethered

START_S, STOP_S = 180.0, 90.0


@dataclass(frozen=True, slots=True)
class Stack:
    """`pid` is the root of its processes, beside those of `others`."""

    url: str
    pid: int
    others: tuple[int, ...] = ()

    @property
    def pids(self) -> tuple[int, ...]:
        """All roots."""
        return (self.pid, *self.others)


@contextlib.contextmanager
def running(folder: Path, models: Path, model: str, workers: int = 1, **env: str) -> Iterator[Stack]:
    """Ready to serve `model`; nothing of it runs afterwards. Raises RuntimeError with the log's tail."""
    log = folder / "up.log"
    command = [sys.executable, "-m", "local", "up", "--data-dir", str(folder / "data"), "--models", str(models)]
    command += ["--port", "0", "--flower-port", "0", "--workers", str(workers)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            tethered(command, signal.SIGTERM),
            env=os.environ | {"HF_HUB_OFFLINE": "1"} | env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        state_file = folder / "data" / "state.json"
        give_up = time.monotonic() + START_S
        while not (state_file.exists() and _ready(json.loads(state_file.read_text()), model)):
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError("the stack did not start\n" + "\n".join(log.read_text().splitlines()[-30:]))
            time.sleep(0.1)
        yield Stack(json.loads(state_file.read_text())["api_url"], process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()  # the kernel ends its children with it
            process.wait()


def _ready(state: dict[str, str], model: str) -> bool:
    """The model, and Flower too: what starts late would take its CPU from the first level."""
    urls = (f"{state['api_url']}/readyz?model={model}", f"{state['flower_url']}/healthcheck")
    try:
        return all(urllib.request.urlopen(url, timeout=5).status == 200 for url in urls)  # noqa: S310 - our own
    except (urllib.error.URLError, OSError):
        return False
