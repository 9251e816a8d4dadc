"""An embedded server, one API process and one worker process, and where each of them is looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from benchmarks import workers
from benchmarks.apis import api
from local.embedded import EmbeddedServer
from local.ports import free_port

API_WAIT_S = 600.0  # no caller of a benchmark is sent away


@dataclass(frozen=True, slots=True)
class Trio:
    """`metrics`: where Prometheus reads the worker. `pids` by process: api, worker."""

    store: redis.Redis
    url: str
    metrics: str
    pids: dict[str, int]


@contextlib.contextmanager
def running(folder: Path, models: str, **env: str) -> Iterator[Trio]:
    """All three ready, on a models file with this text; `env` is the worker's. Nothing runs afterwards."""
    file = folder / "models.yaml"
    file.write_text(models)
    port = free_port()
    # Locks of its own: other workers on the machine would take cores from this one's forwards.
    settings = {"ML_METRICS_PORT": str(port), "ML_LOCK_DIR": str(folder / "locks")}
    with contextlib.ExitStack() as living:
        server = living.enter_context(EmbeddedServer(folder / "redis"))
        store = living.enter_context(redis.Redis.from_url(server.url))
        url, pid = living.enter_context(api(server.url, file, ML_MAX_WAIT_S=str(API_WAIT_S)))
        (worker,) = living.enter_context(workers.running(server.url, file, ["w1"], **settings, **env))
        yield Trio(store, url, f"http://127.0.0.1:{port}/metrics", {"api": pid, "worker": worker.pid})
