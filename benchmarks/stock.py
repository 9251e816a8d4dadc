"""`python -m benchmarks.stock` (`make bench-loss`): the figures of docs/benchmarks/loss.md.

What a plain Celery worker on the stock Redis transport loses or runs twice, and what ours does, under the same blows.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis

from benchmarks import page
from benchmarks.figures import median
from benchmarks.loss_sides import Ours, Side, Stock
from benchmarks.loss_task import HELD, LEASE_S, SETTINGS
from benchmarks.machine import describe
from local.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (1, 2, 3, 4, 5)
QUIET_S = 2 * LEASE_S + 2  # nothing in a list, nothing unacked, no outcome for so long: what is missing is lost
START_S, LOOK_S = 60.0, 0.03
PAYLOAD = "x" * 30_000  # a small image, within the message on both sides
COMMAND = "make bench-loss"


@dataclass(frozen=True, slots=True)
class Case:
    """`blows` strikes, spread over the work: each when so many more jobs have ended."""

    key: str
    title: str
    jobs: int
    ms: float
    blows: int
    strike: Callable[[Side], None]
    poison: bool = False  # one of the jobs, chosen by the seed, kills the process that runs it
    limit_s: float = 120.0


def fill_redis(side: Side) -> None:
    """Redis is at its memory limit for two seconds."""
    side.store.config_set("maxmemory", 1)
    time.sleep(2)
    side.store.config_set("maxmemory", 0)


def cut(side: Side) -> None:
    """All connections of the worker are closed by Redis."""
    for kind in ("normal", "pubsub"):
        side.store.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def kill(side: Side) -> None:
    """The worker is killed, and started again."""
    side.kill()
    side.watch()


CASES = (
    Case("full", "Redis at maxmemory, 3 times for 2 s", 300, 10, 3, fill_redis),
    Case("cut", "`CLIENT KILL` of all connections, 8 times, 10 ms jobs", 400, 10, 8, cut),
    Case("kill", "kill -9 of the worker, 5 times, restarted at once", 300, 10, 5, kill),
    Case("poison", "one job of 61 calls `os.abort()`", 61, 10, 0, cut, poison=True, limit_s=60),
    Case("held", "`CLIENT KILL` of all connections, 5 times, 100 ms jobs held", 300, 100, 5, cut),
)


def run(case: Case, kind: type[Side], seed: int) -> dict[str, Any]:
    """One side under one case's blows; JSON data."""
    chance = random.Random(f"{case.key} {seed}")
    with contextlib.ExitStack() as living:
        folder = Path(living.enter_context(tempfile.TemporaryDirectory(prefix="ml-loss-")))
        server = living.enter_context(EmbeddedServer(folder / "redis"))
        store = living.enter_context(redis.Redis.from_url(server.url))
        side = kind(store, server.url, folder)
        living.callback(side.kill)
        side.watch()
        _until(side, side.ready, START_S)
        sick = chance.randrange(case.jobs) if case.poison else -1
        side.submit([{"number": n, "ms": case.ms, "abort": n == sick, "payload": PAYLOAD} for n in range(case.jobs)])
        begun = time.monotonic()
        for blow in range(case.blows):
            enough = case.jobs * (blow + 1) // (case.blows + 2)
            _until(side, lambda enough=enough: len(side.outcomes()) >= enough, case.limit_s)
            time.sleep(chance.uniform(0, 0.05))
            case.strike(side)
        return _judge(case, side, seed, begun)


def _until(side: Side, condition: Callable[[], object], limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        side.watch()
        time.sleep(LOOK_S)
    return True


def _after(pause_s: float, look: Callable[[], set[int]]) -> set[int]:
    time.sleep(pause_s)
    return look()


def _judge(case: Case, side: Side, seed: int, begun: float) -> dict[str, Any]:
    """When all have ended, or nothing more can come, or the time is up."""
    ended, changed = -1, time.monotonic()
    while ended < case.jobs and time.monotonic() - begun < case.limit_s:
        side.watch()
        count = len(side.outcomes())
        if count != ended or side.left():
            ended, changed = count, time.monotonic()
        elif time.monotonic() - changed > QUIET_S:
            break
        time.sleep(LOOK_S)
    done_s = time.monotonic() - begun
    # Several looks: a message that is just being moved is for a moment in none of the places.
    waiting = set().union(*(_after(0.1, side.waiting) for _ in range(10)))
    outcomes, starts = side.outcomes(), side.starts()
    lost = set(range(case.jobs)) - set(outcomes) - waiting
    return {
        "case": case.key,
        "side": side.name,
        "seed": seed,
        "jobs": case.jobs,
        "ended": len(outcomes),
        "failed": sum(status != "SUCCESS" for status in outcomes.values()),
        "lost": len(lost),
        "lost_after_a_run": len(lost & set(starts)),
        "never_ending": len(waiting - set(outcomes)),
        "starts": starts.total(),
        "jobs_started_again": sum(count > 1 for count in starts.values()),
        "most_starts_of_one": max(starts.values(), default=0),
        "seconds": done_s if len(outcomes) == case.jobs else None,
        "worker_restarts": side.restarts,
    }


def main() -> int:
    """0; the figures tell."""
    options = _parse()
    cases = [case for case in CASES if case.key in options.cases]
    if options.quick:
        cases = [replace(case, jobs=40, blows=min(case.blows, 1), limit_s=40) for case in cases]
        options.seeds = options.seeds[:1]
    data: dict[str, Any] = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": page.command(COMMAND),
        "machine": describe(),
        "lease_s": LEASE_S,
        "held": HELD,
        "stock_settings": SETTINGS,
        "runs": [],
    }
    for case in cases:
        for seed in options.seeds:
            for kind in (Stock, Ours):
                row = run(case, kind, seed)
                print(line(row), flush=True)
                data["runs"].append(row)
    print(report(data))
    if not options.quick:
        page.keep(options.out / "benchmarks" / "loss.json", data)
        made = f"Made {data['when']} by `{data['command']}`. {page.machine(data['machine'])}"
        seeds = f"Seeds: {', '.join(map(str, options.seeds))}."
        page.put(options.out / "benchmarks" / "loss.md", COMMAND, f"{made} {seeds}\n\n{report(data)}")
    return 0


def line(row: dict[str, Any]) -> str:
    """One run."""
    done = "not all done" if row["seconds"] is None else f"all done in {row['seconds']:.1f} s"
    return (
        f"{row['case']:<6} seed {row['seed']} {row['side']:<12} {row['jobs']} jobs, {row['ended']} ended "
        f"({row['failed']} failed), {row['lost']} lost ({row['lost_after_a_run']} after a run), "
        f"{row['never_ending']} never ending, "
        f"{row['starts']} starts ({row['jobs_started_again']} jobs again, at most {row['most_starts_of_one']}), "
        f"{row['worker_restarts']} restarts, {done}"
    )


def report(data: dict[str, Any]) -> str:
    """Sums over the seeds."""
    head = ["blow", "", "jobs", "with an outcome", "lost for ever", "still going round", "starts", "jobs run again"]
    head += ["most starts of one", "restarts of the worker", "s until all done"]
    rows = []
    for case in CASES:
        for name in (Stock.name, Ours.name):
            runs = [row for row in data["runs"] if (row["case"], row["side"]) == (case.key, name)]
            if not runs:
                continue
            total = {key: sum(row[key] for row in runs) for key in runs[0] if isinstance(runs[0][key], int)}
            seconds = [row["seconds"] for row in runs if row["seconds"] is not None]
            times = f"{median(seconds):.0f}" if seconds else "-"
            never = len(runs) - len(seconds)
            dropped = f" ({total['lost_after_a_run']} had run)" if total["lost_after_a_run"] else ""
            rows.append(
                [
                    case.title if name == Stock.name else "",
                    name,
                    f"{total['jobs']:,}",
                    f"{total['ended']:,}" + (f" ({total['failed']} failed)" if total["failed"] else ""),
                    f"**{total['lost']}**{dropped}",
                    str(total["never_ending"]),
                    f"{total['starts']:,}",
                    str(total["jobs_started_again"]),
                    str(max(row["most_starts_of_one"] for row in runs)),
                    str(total["worker_restarts"]),
                    times + (f"; never in {never} of {len(runs)} runs" if never else ""),
                ]
            )
    return page.table(head, rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stock", description="The figures of loss.md")
    parser.add_argument("--quick", action="store_true", help="a smoke test: few jobs, nothing written")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="one run of each side and case for each")
    parser.add_argument("--cases", nargs="+", default=[case.key for case in CASES], help="some only")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where benchmarks/ lies")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
