"""`python -m benchmarks.wake` (`make bench-wake`): the figures of docs/benchmarks/wake.md.

What it takes to wake idle workers for a lone job, and what they cost while nothing comes. Real worker processes that
serve four echo models, each with three priorities; jobs are submitted one at a time, each when all is idle again.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import random
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import redis

from benchmarks import page, workers
from benchmarks.figures import FOREIGN_LIMIT, median, percentile
from benchmarks.machine import busy_s, cpu_s, describe, tree
from local.embedded import EmbeddedServer
from shared import keys, messages, scripts

COUNTS = (1, 2, 4, 8, 16)
MODELS = ("echo-1", "echo-2", "echo-3", "echo-4")
SEED = 20261125
CHANNEL = f"{keys.REPLY}bench"
QUEUES = [keys.INTAKE, *(keys.queue_name(model, "1") for model in MODELS)]
LISTS = len(keys.drained_lists(QUEUES, messages.VERSION))  # each drain of an idle worker pops from all
PAUSE_S = (0.01, 0.04)  # between a job's end and the next: every worker has gone back to sleep
ROOT = Path(__file__).resolve().parents[1]
COMMAND = "make bench-wake"


class Watch:
    """Sees each job's record change (written, claimed, ended), by client-side tracking of all records, and hears of
    its outcome as the API does."""

    def __init__(self, url: str) -> None:
        # RESP2: only there may a second connection get the invalidations of the first.
        self._client = redis.Redis.from_url(url, protocol=2, single_connection_client=True)
        self._heard = redis.Redis.from_url(url, protocol=2).pubsub()
        self._heard.execute_command("CLIENT", "ID")
        number = self._heard.connection.read_response()
        self._heard.subscribe("__redis__:invalidate", CHANNEL)
        prefix = ("BCAST", "PREFIX", keys.JOB)
        self._client.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", number, *prefix)

    def lone(self, job_id: str, model: str, priority: int) -> tuple[float, float]:
        """Seconds from before the submit to the claim and to the outcome of one job."""
        name = keys.queue_name(model, "1")
        call = scripts.submit(
            job_id,
            list_name=keys.queue_list(name, priority),
            raw=messages.build(job_id, queue=name, priority=priority, model=model, version="1", input=1),
            ref=f"{model}@1",
            deadline_ms=60_000,
            ttl_ms=60_000,
            size=1,
            max_jobs=100,
            max_bytes=10_000,
            channel=CHANNEL,
            fields={"model": model, "version": "1"},
        )
        key, begun, changes = (keys.JOB + job_id).encode(), perf_counter(), 0
        scripts.one(scripts.run(self._client, [call]))
        claimed = 0.0
        while True:
            message = self._heard.get_message(ignore_subscribe_messages=True, timeout=30)
            at = perf_counter() - begun
            if at > 30:
                raise RuntimeError(f"job {job_id} has not ended within 30 s")
            if message and message["channel"] == CHANNEL.encode():
                return claimed, at
            if message and key in (message["data"] or ()):
                changes += 1
                claimed = at if changes == 2 else claimed

    def close(self) -> None:
        """Of both connections."""
        self._heard.close()
        self._client.close()


def measure(store: redis.Redis, url: str, count: int, jobs: int, idle_s: float) -> dict[str, Any]:
    """One round on `count` workers that are there and idle."""
    ours = tree(os.getpid())
    idle = _Stretch(store, ours)
    time.sleep(idle_s)
    idle.end()
    chance, watch = random.Random(SEED), Watch(url)
    busy = _Stretch(store, ours)
    times = []
    for _ in range(jobs):
        times.append(watch.lone(uuid.uuid4().hex, chance.choice(MODELS), chance.choice(keys.PRIORITIES)))
        time.sleep(chance.uniform(*PAUSE_S))
    busy.end()
    watch.close()
    ticks = idle.drains / idle.wall_s * busy.wall_s
    claims, outcomes = ([pair[place] * 1000 for pair in times] for place in (0, 1))
    return {
        "workers": count,
        "jobs": jobs,
        **{f"claimed_p{share}_ms": percentile(claims, share / 100) for share in (50, 95, 99)},
        **{f"outcome_p{share}_ms": percentile(outcomes, share / 100) for share in (50, 95, 99)},
        "outcome_max_ms": max(outcomes),
        "drains_per_job": (busy.drains - ticks) / jobs,
        "idle_drains_per_s": idle.drains / idle.wall_s / count,
        "idle_scripts_per_s": idle.scripts / idle.wall_s / count,
        "idle_cpu_share": idle.workers_s / idle.wall_s / count,
        "foreign_cores": busy.foreign,
        "foreign_cores_idle": idle.foreign,
    }


class _Stretch:
    """What happened between its making and `end`."""

    def __init__(self, store: redis.Redis, ours: list[int]) -> None:
        self._store, self._ours = store, ours
        self._before = self._look()

    def end(self) -> None:
        """Then the figures are there."""
        self.wall_s, busy, own, self.workers_s, self.scripts, drains = (
            now - before for now, before in zip(self._look(), self._before, strict=True)
        )
        self.foreign = max(0.0, busy - own) / self.wall_s
        if drains % LISTS:
            raise RuntimeError(f"a drain does not pop from {LISTS} lists: {drains} RPOP")
        self.drains = drains / LISTS

    def _look(self) -> tuple[float, ...]:
        stats = self._store.info("commandstats")
        calls = [stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "rpop")]
        us = os.getpid()
        server = self._store.info("server")["process_id"]
        workers_s = cpu_s(pid for pid in self._ours if pid not in (us, server))
        return perf_counter(), busy_s(), cpu_s(self._ours), workers_s, *calls


def main() -> int:
    """0; the figures tell. Raises RuntimeError where a job does not end or a worker does not start."""
    options = _parse()
    jobs, idle_s, rounds = (30, 2.0, 1) if options.quick else (options.jobs, 10.0, options.rounds)
    if options.quick:
        options.patience = 0
    data: dict[str, Any] = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": page.command(COMMAND),
        "machine": describe(),
        "jobs": jobs,
        "rounds": [],
    }
    for count in options.workers:
        for number, row in enumerate(_rounds(count, jobs, idle_s, rounds, options.patience), 1):
            print(f"round {number}: {line(row)}", flush=True)
            data["rounds"].append(row)
    print(report(data))
    if not options.quick:
        page.keep(options.out / "benchmarks" / "wake.json", data)
        made = f"Made {data['when']} by `{data['command']}`. {page.machine(data['machine'])}"
        page.put(options.out / "benchmarks" / "wake.md", COMMAND, f"{made}\n\n{report(data)}")
    return 0


def _wait_for_quiet(store: redis.Redis, patience_s: float) -> None:
    """Other work on the machine pauses, or the patience is used up."""
    give_up = perf_counter() + patience_s
    while perf_counter() < give_up:
        look = _Stretch(store, tree(os.getpid()))
        time.sleep(1.0)
        look.end()
        if look.foreign <= FOREIGN_LIMIT:
            return


def _rounds(count: int, jobs: int, idle_s: float, rounds: int, patience_s: float) -> Iterator[dict[str, Any]]:
    with contextlib.ExitStack() as living:
        folder = Path(living.enter_context(tempfile.TemporaryDirectory(prefix="ml-wake-")))
        server = living.enter_context(EmbeddedServer(folder / "redis"))
        store = living.enter_context(redis.Redis.from_url(server.url))
        models = folder / "models.yaml"
        models.write_text(
            "models:\n" + "".join(f'  {name}: {{task: echo, versions: {{"1": {{}}}}}}\n' for name in MODELS)
        )
        names = [f"w{number}" for number in range(1, count + 1)]
        living.enter_context(workers.running(server.url, models, names))
        measure(store, server.url, count, 20, 1.0)  # connections and caches; not counted
        for _ in range(rounds):
            _wait_for_quiet(store, patience_s)
            yield measure(store, server.url, count, jobs, idle_s)


def line(row: dict[str, Any]) -> str:
    """One round."""
    return (
        f"{row['workers']:>2} workers: claimed p50 {row['claimed_p50_ms']:.2f} p99 {row['claimed_p99_ms']:.2f} ms, "
        f"outcome p50 {row['outcome_p50_ms']:.2f} p99 {row['outcome_p99_ms']:.2f} max {row['outcome_max_ms']:.1f} ms; "
        f"{row['drains_per_job']:.2f} drains a job; idle {row['idle_scripts_per_s']:.2f} scripts/s, "
        f"CPU {row['idle_cpu_share']:.2%} a worker; foreign {row['foreign_cores']:.2f}/{row['foreign_cores_idle']:.2f}"
    )


def report(data: dict[str, Any]) -> str:
    """The table: medians of the rounds that no other work on the machine disturbed, or of all."""
    head = ["idle workers", "claimed p50 / p95 / p99 ms", "outcome p50 / p95 / p99 ms", "slowest ms", "drains a job"]
    head += ["idle: scripts/s", "idle: CPU of a core", "foreign cores", "rounds"]
    rows = []
    for count in dict.fromkeys(row["workers"] for row in data["rounds"]):
        every = [row for row in data["rounds"] if row["workers"] == count]
        clean = [r for r in every if max(r["foreign_cores"], r["foreign_cores_idle"]) <= FOREIGN_LIMIT] or every
        mid = {key: median([row[key] for row in clean]) for key in every[0]}
        spans = [" / ".join(f"{mid[f'{kind}_p{p}_ms']:.1f}" for p in (50, 95, 99)) for kind in ("claimed", "outcome")]
        rows.append(
            [
                str(count),
                *spans,
                f"{max(row['outcome_max_ms'] for row in clean):.0f}",
                f"{mid['drains_per_job']:.2f}",
                f"{mid['idle_scripts_per_s']:.2f}",
                f"{mid['idle_cpu_share']:.2%}",
                f"{max(max(r['foreign_cores'], r['foreign_cores_idle']) for r in clean):.2f}",
                f"{len(clean)}/{len(every)}",
            ]
        )
    return page.table(head, rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wake", description="The figures of wake.md")
    parser.add_argument("--quick", action="store_true", help="a smoke test: one round, few jobs, nothing written")
    parser.add_argument("--jobs", type=int, default=400, help="lone jobs a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds for each number of workers")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait before a round for a quiet machine")
    parser.add_argument("--workers", type=int, nargs="+", default=COUNTS, help="how many idle workers")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where benchmarks/ lies")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
