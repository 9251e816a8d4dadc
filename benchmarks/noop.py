"""`python -m benchmarks.noop` (`make bench-noop`): what the plumbing costs, with a model that does nothing.

A queue that was filled before, through one worker process, and a closed loop over HTTP through one API process; each
with Celery's events on, as Flower needs them, and off. Rates, CPU by process, and what Redis did for a job.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
import redis

from benchmarks import echo, page, workers
from benchmarks.apis import api
from benchmarks.client import ask
from benchmarks.figures import median, percentile
from benchmarks.machine import Foreign, cpu_s, tree
from local.embedded import EmbeddedServer
from shared import keys, scripts, scripts_operate

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "make bench-noop"
MODELS = 'models:\n  echo: {task: echo, versions: {"1": {}}, limits: {queue: 1000000}}\n'
TEXT = "A queue keeps what it was given, and a worker takes many at a time."
GROUP, LOOK_S, PATIENCE_S = 500, 0.02, 300.0
MIDDLE = (0.1, 0.9)  # the part of a full queue that is timed: neither the start nor the last few


def fill(store: redis.Redis, jobs: int) -> None:
    """So many jobs, by the very script and message of the API."""
    etag = (store.hget(keys.REGISTRY, "etag") or b"").decode()
    for at in range(0, jobs, GROUP):
        for reply in scripts.run(store, [_submit(etag) for _ in range(min(GROUP, jobs - at))]):
            if not isinstance(reply, scripts.Submitted) or reply.status != "accepted":
                raise RuntimeError(f"not accepted: {reply}")


def _submit(etag: str) -> scripts.Call[scripts.Submitted]:
    return echo.submit(
        {"text": TEXT},
        ttl_ms=600_000,
        ahead=keys.urgent_lists(echo.QUEUE, keys.NORMAL),
        after=keys.patient_lists(echo.QUEUE, keys.NORMAL),
        etag=etag,
        fields={"priority": keys.NORMAL, "labels": "{}"},
    )


class Costs:
    """CPU by process, and Redis commands, from its making to `read`."""

    def __init__(self, store: redis.Redis, pids: dict[str, int]) -> None:
        self._store, self._pids = store, {name: tree(pid) for name, pid in pids.items()}
        self._begun = self._look()

    def read(self, jobs: int) -> dict[str, float]:
        """By job: microseconds of CPU of each process, commands (those inside scripts too), round trips."""
        now = self._look()
        return {name: (now[name] - before) / jobs for name, before in self._begun.items()}

    def _look(self) -> dict[str, float]:
        told = self._store.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): found["calls"] for name, found in told.items()}
        cpu = self._store.info("cpu")
        redis_s = cpu["used_cpu_user"] + cpu["used_cpu_sys"]
        used = {f"{name}_us": cpu_s(pids) * 1e6 for name, pids in self._pids.items()}
        scripted = calls.get("evalsha", 0)
        return {**used, "redis_us": redis_s * 1e6, "redis_commands": sum(calls.values()), "redis_scripts": scripted}


def through_one_worker(store: redis.Redis, pid: int, jobs: int) -> dict[str, Any]:
    """A full queue, timed between its first and its last tenth."""
    scripts.one(scripts.run(store, [scripts_operate.pause("echo", on=True)]))
    fill(store, jobs)
    done = _succeeded(store)
    costs = Costs(store, {"worker": pid})
    scripts.one(scripts.run(store, [scripts_operate.pause("echo", on=False)]))
    seen = [(perf_counter(), 0)]
    while seen[-1][1] < jobs:
        if perf_counter() - seen[0][0] > PATIENCE_S:
            raise RuntimeError(f"{seen[-1][1]} of {jobs} jobs have succeeded")
        time.sleep(LOOK_S)
        seen.append((perf_counter(), _succeeded(store) - done))
    middle = [look for look in seen if MIDDLE[0] * jobs <= look[1] <= MIDDLE[1] * jobs]
    rate = (middle[-1][1] - middle[0][1]) / (middle[-1][0] - middle[0][0])
    return {"jobs": jobs, "jobs_per_s": rate, **costs.read(jobs)}


def _succeeded(store: redis.Redis) -> int:
    return int(store.hget(keys.COUNTERS + echo.REF, "succeeded") or 0)


def over_http(store: redis.Redis, url: str, pids: dict[str, int], connections: int, jobs: int) -> dict[str, Any]:
    """A closed loop of `POST /inference`."""
    bodies = [{"model_type": "echo", "data": {"text": TEXT}}] * jobs
    costs = Costs(store, pids)
    answers = ask(f"{url}/inference", bodies, connections)
    if wrong := [body for status, body in zip(answers.statuses, answers.bodies, strict=True) if status != 200]:
        raise RuntimeError(f"{len(wrong)} calls failed, the first with {wrong[0]!r}")
    if orjson.loads(answers.bodies[-1])["output"] != bodies[-1]["data"]:
        raise RuntimeError(f"another output: {answers.bodies[-1]!r}")
    return {
        "connections": connections,
        "jobs": jobs,
        "requests_per_s": jobs / answers.wall_s,
        **{f"p{share}_ms": percentile(answers.latencies_s, share / 100) * 1000 for share in (50, 95, 99)},
        **costs.read(jobs),
    }


@contextlib.contextmanager
def stack(folder: Path, *, events: bool) -> Iterator[tuple[redis.Redis, str, dict[str, int]]]:
    """A server, an API and a worker; their process ids."""
    models = folder / "models.yaml"
    models.write_text(MODELS)
    with contextlib.ExitStack() as living:
        server = living.enter_context(EmbeddedServer(folder / "redis"))
        store = living.enter_context(redis.Redis.from_url(server.url))
        url, pid = living.enter_context(api(server.url, models))
        told = {"ML_TASK_EVENTS": str(events).lower()}
        (worker,) = living.enter_context(workers.running(server.url, models, ["w1"], **told))
        yield store, url, {"api": pid, "worker": worker.pid}


def measure(plan: argparse.Namespace) -> dict[str, Any]:
    """All rows; each pair of rows, events on and off, is measured beside each other, `rounds` times."""
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(plan.rounds):
        for events in (False, True):
            with tempfile.TemporaryDirectory(prefix="ml-noop-") as folder, stack(Path(folder), events=events) as parts:
                store, url, pids = parts
                over_http(store, url, pids, 32, 500)  # connections, caches: not counted
                rows = [{"what": "queue", **through_one_worker(store, pids["worker"], plan.queued)}]
                for connections, jobs in plan.levels:
                    rows.append({"what": f"c{connections}", **over_http(store, url, pids, connections, jobs)})
            for row in rows:
                row["events"] = events
                found.setdefault(f"{row['what']} {events}", []).append(row)
                rate = row.get("jobs_per_s") or row["requests_per_s"]
                print(f"round {number + 1}: {row['what']:>6} events {events!s:>5}: {rate:,.0f}/s", flush=True)
    return {"rounds": list(found.values()), "rows": [_median(rows) for rows in found.values()]}


def _median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first = rows[0]
    told = {name: value for name, value in first.items() if isinstance(value, str | bool)}
    return {name: median([row[name] for row in rows]) for name in first if name not in told} | told


def report(data: dict[str, Any]) -> str:
    """One table."""
    lines = []
    for row in sorted(data["rows"], key=lambda row: row["events"]):
        full = row["what"] == "queue"
        rate = row["jobs_per_s"] if full else row["requests_per_s"]
        latency = "" if full else f"{row['p50_ms']:.1f} / {row['p95_ms']:.1f} / {row['p99_ms']:.1f}"
        name = f"a full queue of {row['jobs']:,.0f}" if full else f"{row['connections']:.0f} callers over HTTP"
        cpu = [f"{row[key]:.0f}" if key in row else "" for key in ("api_us", "worker_us", "redis_us")]
        counts = [f"{row['redis_scripts']:.2f}", f"{row['redis_commands']:.0f}"]
        lines.append([name, "on" if row["events"] else "off", f"**{rate:,.0f}**", latency, *cpu, *counts])
    head = ["load", "events", "jobs/s", "p50 / p95 / p99 ms", "API us", "worker us", "Redis us", "scripts", "commands"]
    foreign = f"Foreign cores meanwhile: {data['foreign_cores']:.2f}."
    return f"{page.table(head, lines)}\n\n{foreign}"


def main() -> int:
    """0; the figures tell."""
    plan = _parse()
    plan.queued, plan.levels = 20_000, [(1, 500), (32, 8000), (64, 8000)]
    if plan.quick:
        plan.queued, plan.levels, plan.rounds = 4000, [(1, 100), (32, 1000)], 1
    data, foreign = page.stamp(COMMAND), Foreign()
    data |= measure(plan)
    data["foreign_cores"] = foreign.cores()
    page.publish(data, report(data), COMMAND, None if plan.quick else plan.out / "benchmarks" / "noop.md")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noop", description="The figures of noop.md")
    parser.add_argument("--quick", action="store_true", help="a smoke test: few jobs, one round, nothing written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where benchmarks/ lies")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
