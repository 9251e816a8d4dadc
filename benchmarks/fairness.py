"""`python -m benchmarks.fairness`: what turns between keys cost Redis, and what they are worth to a lone job.

The real scripts on an embedded server: jobs are submitted, drained as by a worker that takes 128 at a time, claimed and
finished. The cost is the server's own CPU time by job.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import orjson
import redis

from benchmarks import echo
from local.embedded import EmbeddedServer
from shared import scripts
from shared.types import State

ROOM, GROUP = 128, 500


def submit(owner: str) -> scripts.Call[scripts.Submitted]:
    """One job of one item."""
    return echo.submit(1, owner=owner, share=scripts.Share(owner))


def drain(store: redis.Redis) -> list[tuple[str, str]]:
    """(owner, job) of what a worker takes, in order."""
    drained = scripts.one(scripts.run(store, [scripts.drain([echo.LIST], [ROOM], process="p")]))
    headers = [orjson.loads(raw)["headers"] for _, raw in drained.messages]
    return [(one.get("ml_owner", ""), one["id"]) for one in headers]


def finish(store: redis.Redis, ids: list[str], *, keyed: bool) -> None:
    """As after a batch."""
    scripts.run(store, [scripts.claim(ids, process="p", worker="w", max_attempts=3)])
    usage = scripts.Usage(1, 0, 100) if keyed else None
    done = {"state": State.SUCCEEDED, "code": "", "meta": b"{}", "ttl_ms": 60_000, "usage": usage}
    scripts.run(store, [scripts.finish(job_id, tag=job_id, **done) for job_id in ids])


def cpu_s(store: redis.Redis) -> float:
    """Of the server, so far."""
    told = store.info("cpu")
    return float(told["used_cpu_sys_main_thread"] + told["used_cpu_user_main_thread"])


def cost_us(store: redis.Redis, jobs: int, owners: int) -> float:
    """Of a job from submit to outcome, where `owners` keys have as many each; 0: without keys."""
    store.flushall()
    names = [f"key_{n}" for n in range(owners)] or [""]
    calls = [submit(names[n % len(names)]) for n in range(jobs)]
    begun = cpu_s(store)
    for at in range(0, jobs, GROUP):
        scripts.run(store, calls[at : at + GROUP])
    while taken := drain(store):
        finish(store, [job_id for _, job_id in taken], keyed=owners > 0)
    return (cpu_s(store) - begun) / jobs * 1e6


def place_of_a_lone_job(store: redis.Redis, flood: int) -> int:
    """How many jobs are served before it, where another key's `flood` came first."""
    store.flushall()
    for at in range(0, flood, GROUP):
        scripts.run(store, [submit("flood") for _ in range(min(GROUP, flood - at))])
    before = len(drain(store))
    scripts.run(store, [submit("lone")])
    return [owner for owner, _ in drain(store)].index("lone") if before else 0


def main() -> int:
    """Prints two tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness")
    parser.add_argument("--jobs", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        store = redis.Redis.from_url(server.url)
        print("| keys with jobs in the queue | Redis CPU a job, us |\n|---|---|")
        for owners in (0, 1, 10, 100):
            cost = min(cost_us(store, options.jobs, owners) for _ in range(3))
            print(f"| {owners or 'none (keys off)'} | {cost:.0f} |")
        print("\n| jobs of another key that came first | of these served before the lone one, at the next take |")
        print("|---|---|")
        for flood in (1_000, 100_000):
            print(f"| {flood:,} | {place_of_a_lone_job(store, flood)} |")
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
