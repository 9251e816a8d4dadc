"""What many workers cost Redis while nothing is done: their signs of life, and that each is woken by a lone job."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import redis

from local.embedded import EmbeddedServer
from shared import keys, scripts

WORKERS, LISTS = (1, 10, 100, 1000), (3, 12, 48)
LEASE_MS, HEARTBEAT_MS = 30_000, 5_000
CALLS = 2000
SIGN = orjson.dumps({"worker": "pool-0123456789-abcde", "state": "ready", "refs": ["bert@1"], "told": "x" * 500})


def many_workers() -> dict[str, Any]:
    """By the number of workers: microseconds of Redis's CPU for one heartbeat, and for one API process's look at all;
    by the number of lists (three for each version that a worker serves): for a drain that finds nothing."""
    with tempfile.TemporaryDirectory(prefix="ml-many-") as folder, EmbeddedServer(Path(folder)) as server:
        store = redis.Redis.from_url(server.url)
        rows = []
        for workers in WORKERS:
            names = [f"process-{number}" for number in range(workers)]
            for name in names:
                _beat(store, name)
            beat = _cpu_us(store, lambda at, names=names: _beat(store, names[at % len(names)]), CALLS)
            look = _cpu_us(store, lambda _: _look(store), max(20, CALLS // workers))
            rows.append({"workers": workers, "heartbeat_us": beat, "look_us": look})
        drains = []
        for lists in LISTS:
            places = [f"ml.model{number}.1" for number in range(lists)]
            call = scripts.drain(places, [64] * lists, process="process-0")
            drains.append(
                {"lists": lists, "us": _cpu_us(store, lambda _, call=call: scripts.run(store, [call]), CALLS)}
            )
        return {"rows": rows, "drains": drains}


def _beat(store: redis.Redis, name: str) -> None:
    """As worker/presence.py does it each `HEARTBEAT_MS`, of a worker that holds nothing."""
    scripts.run(store, [scripts.renew([], process=name, sign=SIGN, sign_ms=10 * LEASE_MS)])
    scripts.run(store, [scripts.restore_expired(lease_ms=LEASE_MS, heartbeat_ms=HEARTBEAT_MS)])


def _look(store: redis.Redis) -> None:
    """As api/presence.py does it, at most every two seconds; the cards, one for each version of each worker, as
    signs."""
    processes: Any = store.zrange(keys.WORKERS, 0, -1)
    signs = [f"{keys.WORKER}{process.decode()}" for process in processes]
    store.mget(signs)
    store.mget(signs)


def _cpu_us(store: redis.Redis, call: Callable[[int], object], times: int) -> float:
    for at in range(20):  # connections, scripts: not counted
        call(at)
    before = _used_s(store)
    for at in range(times):
        call(at)
    return round((_used_s(store) - before) / times * 1e6, 1)


def _used_s(store: redis.Redis) -> float:
    cpu = store.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])
