"""The parts `queued`, `clients` and `models` of benchmarks.limits: what a job costs as these grow.

The model does nothing (echo), so all that is measured is the service's own.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import orjson
import redis

from benchmarks import echo, noop, trio
from benchmarks.client import ask, head_of
from benchmarks.figures import median, percentile
from benchmarks.machine import cpu_s
from benchmarks.noop import Costs
from benchmarks.trio import Trio
from shared import keys, scripts, scripts_operate

QUEUED, CLIENTS, MODELS = (1000, 10_000, 100_000), (10, 100, 1000, 5000), (1, 8, 64)
ROUNDS = 3
ENOUGH_S = 105.0  # no other round begins after this long: others want the machine too
HEAD = 5000  # jobs that are taken from the head of a queue, whatever lies behind them
MIDDLE = (0.1, 0.9)  # the part of them that is timed
LOOK_S, PATIENCE_S, IDLE_S = 0.01, 120.0, 2.0
WAITING = 'models:\n  echo: {task: echo, versions: {"1": {}}}\n  away: {task: echo, versions: {"1": {}}}\n'


def queued(behind: int, head: int) -> dict[str, Any]:
    """Of a queue of `head` jobs and `behind` more: the submit of the last ones, and the run of the first ones."""
    last = min(behind, 5000)
    with tempfile.TemporaryDirectory(prefix="ml-growth-") as folder, trio.running(Path(folder), noop.MODELS) as parts:
        store, worker = parts.store, {"worker": parts.pids["worker"]}
        noop.fill(store, 500)  # connections, scripts, caches: not counted
        _until(lambda: _succeeded(store) == 500)
        _pause(store, on=True)
        noop.fill(store, head + behind - last)
        submit = Costs(store, {})
        noop.fill(store, last)
        submitted = submit.read(last)
        begun = _succeeded(store)
        _pause(store, on=False)
        seen: list[tuple[float, int, Costs]] = []
        while not seen or seen[-1][1] < MIDDLE[1] * head:
            done = _succeeded(store) - begun
            if done >= MIDDLE[0] * head and not seen:
                seen.append((perf_counter(), done, Costs(store, worker)))
            elif done >= MIDDLE[1] * head:
                costs = seen[0][2].read(done - seen[0][1])
                seen.append((perf_counter(), done, seen[0][2]))
            time.sleep(LOOK_S)
    (at, first, _), (until, end, _) = seen
    return {
        "behind": behind,
        "submit_redis_us": submitted["redis_us"],
        "run_redis_us": costs["redis_us"],
        "run_worker_us": costs["worker_us"],
        "jobs_per_s": (end - first) / (until - at),
    }


def clients(waiting: int, jobs: int) -> dict[str, Any]:
    """Jobs one after the other while so many callers wait for jobs that nobody runs."""
    with contextlib.ExitStack() as living:
        folder = living.enter_context(tempfile.TemporaryDirectory(prefix="ml-growth-"))
        parts = living.enter_context(trio.running(Path(folder), WAITING, ML_MODELS="echo"))
        noop.over_http(parts.store, parts.url, {}, 1, 50)  # not counted
        living.enter_context(_callers(parts, waiting))
        begun, at = cpu_s([parts.pids["api"]]), perf_counter()
        time.sleep(IDLE_S)
        idle = (cpu_s([parts.pids["api"]]) - begun) / (perf_counter() - at)
        row = noop.over_http(parts.store, parts.url, parts.pids, 1, jobs)
    took = jobs / row["requests_per_s"]
    return {
        "waiting": waiting,
        **{key: row[key] for key in ("p50_ms", "p95_ms", "p99_ms", "api_us", "worker_us", "redis_us")},
        "idle_api_cores": idle,
        "own_api_us": row["api_us"] - idle * took / jobs * 1e6,
    }


@contextlib.contextmanager
def _callers(parts: Trio, count: int) -> Iterator[None]:
    """Sockets whose requests are accepted, and not answered."""
    place = urlsplit(parts.url)
    body = orjson.dumps({"model": "away", "input": {"text": noop.TEXT}})
    told = {"Content-Type": "application/json", "Prefer": f"wait={trio.API_WAIT_S:.0f}"}
    request = head_of(place.netloc, "/v1/jobs", len(body), told) + body
    with contextlib.ExitStack() as living:
        for _ in range(count):
            one = living.enter_context(socket.create_connection((place.hostname or "", place.port or 80)))
            one.sendall(request)
        _until(lambda: int(parts.store.hget(f"{keys.COUNTERS}away@1", "queued") or 0) == count)
        yield


def models(count: int, jobs: int) -> dict[str, Any]:
    """32 callers, each call to the next of so many models of one worker."""
    text = "models:\n" + "".join(f'  m{number}: {{task: echo, versions: {{"1": {{}}}}}}\n' for number in range(count))
    with tempfile.TemporaryDirectory(prefix="ml-growth-") as folder, trio.running(Path(folder), text) as parts:
        bodies = [{"model_type": f"m{number % count}", "data": {"text": noop.TEXT}} for number in range(jobs)]
        _answered(parts, bodies[: max(500, count)])  # not counted
        costs = Costs(parts.store, parts.pids)
        answers = _answered(parts, bodies)
        return {
            "models": count,
            "requests_per_s": jobs / answers.wall_s,
            "p50_ms": percentile(answers.latencies_s, 0.5) * 1000,
            "p95_ms": percentile(answers.latencies_s, 0.95) * 1000,
            **costs.read(jobs),
        }


def _answered(parts: Trio, bodies: Sequence[Any]) -> Any:
    answers = ask(f"{parts.url}/inference", bodies, 32)
    if set(answers.statuses) != {200}:
        raise RuntimeError(f"not all calls were answered: {sorted(set(answers.statuses))}")
    return answers


def measure_queued(*, quick: bool) -> dict[str, Any]:
    """JSON data; so are those of the two below."""
    sizes, head = ((500, 2000), 1000) if quick else (QUEUED, HEAD)
    return _rounds([lambda size=size: queued(size, head) for size in sizes], quick=quick) | {"head": head}


def measure_clients(*, quick: bool) -> dict[str, Any]:
    """Of callers that wait."""
    sizes, jobs = ((10, 100), 50) if quick else (CLIENTS, 500)
    return _rounds([lambda size=size: clients(size, jobs) for size in sizes], quick=quick)


def measure_models(*, quick: bool) -> dict[str, Any]:
    """Of models that one worker serves."""
    sizes, jobs = ((1, 8), 500) if quick else (MODELS, 4000)
    return _rounds([lambda size=size: models(size, jobs) for size in sizes], quick=quick)


def _rounds(steps: Sequence[Any], *, quick: bool) -> dict[str, Any]:
    rounds: list[list[dict[str, Any]]] = []
    begun = perf_counter()
    while not rounds or (len(rounds) < ROUNDS and not quick and perf_counter() - begun < ENOUGH_S):
        rounds.append([step() for step in steps])
        print(f"round {len(rounds)}: {rounds[-1]}", flush=True)
    rows = [{key: median([row[key] for row in alike]) for key in alike[0]} for alike in zip(*rounds, strict=True)]
    return {"rounds": rounds, "rows": rows}


def _pause(store: redis.Redis, *, on: bool) -> None:
    scripts.one(scripts.run(store, [scripts_operate.pause("echo", on=on)]))


def _succeeded(store: redis.Redis) -> int:
    return int(store.hget(keys.COUNTERS + echo.REF, "succeeded") or 0)


def _until(done: Any) -> None:
    give_up = perf_counter() + PATIENCE_S
    while not done():
        if perf_counter() > give_up:
            raise RuntimeError("it takes too long")
        time.sleep(0.05)
