"""`python -m benchmarks.replicas` (`make bench-replicas`): the figures of docs/benchmarks/replicas.md.

Jobs a second against the number of worker processes, whose model holds a device and needs no CPU, and of API
processes; and what each part of the service takes for a job, so that it can be said where it bends and why.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import orjson
import redis

from benchmarks import page, replicas_page, workers
from benchmarks.apis import api
from benchmarks.figures import FOREIGN_LIMIT, median, percentile
from benchmarks.machine import busy_s, cpu_s
from benchmarks.steady import Seen, keep_asking
from local.embedded import EmbeddedServer
from shared import keys

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "make bench-replicas"
BATCH = 32
MODELS = f"""
models:
  held: {{handler: "benchmarks.held:Held", versions: {{"1": {{held_s: 0.25}}}}, batch: {{max_size: {BATCH}}}}}
  slow: {{handler: "benchmarks.held:Held", versions: {{"1": {{held_s: 1.0}}}}, batch: {{max_size: {BATCH}}}}}
  echo: {{task: echo, versions: {{"1": {{}}}}}}
"""
WORKERS, APIS = (1, 2, 4, 8, 16), (1, 2, 4)
PARTS = ("api", "workers", "redis", "client")
AHEAD = 3  # batches' worth of callers for each worker: one on the device, one behind it, one on its way
WORKERS_OF_APIS, ECHO_CALLERS = 8, 128


@dataclass(frozen=True, slots=True)
class Load:
    """`items` a request; `held_s`: what a batch of the model takes, 0 of one that does nothing."""

    name: str
    model: str
    items: int
    held_s: float

    def body(self, number: int) -> dict[str, Any]:
        """One call of `POST /inference`."""
        told = [{"number": number + place} for place in range(self.items)]
        return {"model_type": self.model, "data": told if self.items > 1 else told[0]}

    def callers(self, count: int) -> int:
        """Who keep so many workers busy."""
        return AHEAD * BATCH * count // self.items if self.held_s else ECHO_CALLERS

    def limit(self, count: int) -> float:
        """Items a second that so many devices can do; 0: not known."""
        return BATCH / self.held_s * count if self.held_s else 0.0


SINGLE = Load("single", "held", 1, 0.25)
LISTS = Load("lists of 8", "held", 8, 0.25)
SLOW = Load("slow device", "slow", 1, 1.0)
ECHO = Load("no-op", "echo", 1, 0.0)


@dataclass(slots=True)
class Service:
    """Its parts that run, and more workers when they are asked for."""

    living: contextlib.ExitStack
    server: EmbeddedServer
    store: redis.Redis
    models: Path
    urls: list[str] = field(default_factory=list)
    pids: dict[str, list[int]] = field(default_factory=lambda: {"api": [], "workers": []})

    def grow(self, *, apis: int = 0, workers_to: int = 0) -> None:
        """To so many of each, all ready."""
        while len(self.urls) < apis:
            url, pid = self.living.enter_context(api(self.server.url, self.models))
            self.urls.append(url)
            self.pids["api"].append(pid)
        names = [f"w{number}" for number in range(len(self.pids["workers"]), workers_to)]
        if names:
            running = workers.running(self.server.url, self.models, names, ML_TASK_EVENTS="false")
            more = self.living.enter_context(running)
            self.pids["workers"] += [process.pid for process in more]

    def look(self) -> dict[str, float]:
        """CPU seconds by part so far, those of the whole machine, and what Redis has done."""
        told = self.store.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): found["calls"] for name, found in told.items()}
        parts = {**self.pids, "redis": [self.server.pid], "client": [os.getpid()]}
        return {
            **{name: cpu_s(pids) for name, pids in parts.items()},
            "machine": busy_s(),
            "scripts": calls.get("evalsha", 0),
            "commands": sum(calls.values()),
        }


@contextlib.contextmanager
def service() -> Iterator[Service]:
    """A server, and nothing else yet."""
    with contextlib.ExitStack() as living:
        folder = Path(living.enter_context(tempfile.TemporaryDirectory(prefix="ml-replicas-")))
        models = folder / "models.yaml"
        models.write_text(MODELS)
        server = living.enter_context(EmbeddedServer(folder / "redis"))
        store = living.enter_context(redis.Redis.from_url(server.url))
        yield Service(living, server, store, models)


def run(parts: Service, load: Load, stretch_s: float) -> dict[str, Any]:
    """One row: the load on all that is there, as JSON data. Raises RuntimeError where anything was not answered."""
    count = len(parts.pids["workers"])
    callers = load.callers(count)
    bodies = [load.body(number * load.items) for number in range(1000)]
    warm_s = max(2.0, 3 * load.held_s)
    urls = [f"{url}/inference" for url in parts.urls]
    seen = keep_asking(urls, bodies, callers, warm_s=warm_s, stretch_s=stretch_s, look=parts.look)
    settle(parts.store)
    row = {"load": load.name, "workers": count, "apis": len(urls), "callers": callers, "limit": load.limit(count)}
    return row | figures(load, count, seen)


def figures(load: Load, count: int, seen: Seen) -> dict[str, Any]:
    """What was seen of so many workers. `busy`: the devices' share of the time; `batch`: mean items of a batch."""
    items, requests = load.items * len(seen.at_s), len(seen.at_s)
    used = {name: seen.after[name] - seen.before[name] for name in seen.before}
    rate = load.items * slope(seen.at_s)
    found: dict[str, Any] = {
        "items_per_s": rate,
        **{f"p{share}_ms": percentile(seen.latencies_s, share / 100) * 1000 for share in (50, 95)},
        **{f"{name}_us": used[name] / items * 1e6 for name in PARTS},
        **{f"{name}_cores": used[name] / seen.wall_s for name in PARTS},
        "scripts": used["scripts"] / requests,
        "commands": used["commands"] / requests,
    }
    found["foreign_cores"] = foreign(used) / seen.wall_s
    if load.held_s:
        batches = sum(1 / ran["batch"] for body in seen.bodies for ran in outputs(body))
        found |= {"batch": items / batches, "busy": batches * load.held_s / (count * seen.wall_s)}
    return found


def slope(at_s: Sequence[float]) -> float:
    """Answers a second. Batches end all at once, so the edges of a stretch cut off up to one for each worker: the
    slope of the count over time is hardly moved by them."""
    return float(np.polyfit(at_s, np.arange(len(at_s)), 1)[0])


def outputs(body: bytes) -> list[dict[str, Any]]:
    """Of one answer, an item each."""
    output = orjson.loads(body)["output"]
    return output if isinstance(output, list) else [output]


def wait_for_quiet(parts: Service, patience_s: float) -> float:
    """Until other work on the machine pauses, or the patience is used up. What is left of it."""
    while patience_s > 0:
        before = parts.look()
        time.sleep(1.0)
        if foreign({name: now - before[name] for name, now in parts.look().items()}) <= FOREIGN_LIMIT:
            break
        patience_s -= 1.0
    return patience_s


def foreign(used: dict[str, float]) -> float:
    """CPU seconds that nobody of ours used, of those that were."""
    return max(0.0, used["machine"] - sum(used[name] for name in PARTS))


def settle(store: redis.Redis, patience_s: float = 60.0) -> None:
    """Nothing of the load before waits or runs any more."""
    give_up = perf_counter() + patience_s
    while any(map(int, _open(store))):
        if perf_counter() > give_up:
            raise RuntimeError("the load does not end")
        time.sleep(0.05)


def _open(store: redis.Redis) -> Iterator[bytes | int]:
    for name in store.keys(f"{keys.COUNTERS}*"):
        yield from (count or 0 for count in store.hmget(name, "queued", "running"))


def measure(plan: argparse.Namespace) -> dict[str, Any]:
    """All rows, `rounds` times; the medians of the rounds."""
    found: dict[str, list[dict[str, Any]]] = {}

    def note(part: str, row: dict[str, Any]) -> None:
        found.setdefault(f"{part} {row['load']} {row['workers']} {row['apis']}", []).append({"part": part, **row})
        cpu = ", ".join(f"{name} {row[f'{name}_us']:.0f}" for name in PARTS)
        print(
            f"{row['load']:>11}, {row['workers']:>2} workers, {row['apis']} APIs: {row['items_per_s']:7,.1f}/s, "
            f"batch {row.get('batch', 0):4.1f}, busy {row.get('busy', 0):4.0%}; us: {cpu}; "
            f"scripts {row['scripts']:.2f}; foreign cores {row['foreign_cores']:.2f}",
            flush=True,
        )

    def measured(parts: Service, load: Load, stretch_s: float) -> dict[str, Any]:
        plan.patience = wait_for_quiet(parts, plan.patience)
        return run(parts, load, stretch_s)

    for _ in range(plan.rounds):
        if "workers" in plan.parts:
            with service() as parts:
                for count in plan.workers:
                    parts.grow(apis=1, workers_to=count)
                    for load in (SINGLE, LISTS, SLOW):
                        note("workers", measured(parts, load, plan.stretch * max(1.0, 2 * load.held_s)))
        if "apis" in plan.parts:
            with service() as parts:
                parts.grow(workers_to=WORKERS_OF_APIS)
                for count in plan.apis:
                    parts.grow(apis=count)
                    for load in (SINGLE, ECHO):
                        note("apis", measured(parts, load, plan.stretch))
    return {"rounds": list(found.values()), "rows": [_median(rows) for rows in found.values()]}


def _median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    told = {name: value for name, value in rows[0].items() if isinstance(value, str)}
    return told | {name: median([row[name] for row in rows]) for name in rows[0] if name not in told}


def main() -> int:
    """0; the figures tell."""
    plan = _parse()
    if plan.quick:
        plan.rounds, plan.stretch, plan.patience = 1, 4.0, 0.0
    plan.workers = plan.workers or ((1, 4) if plan.quick else WORKERS)
    plan.apis = plan.apis or ((1, 2) if plan.quick else APIS)
    data = page.stamp(COMMAND) | measure(plan)
    file = None if plan.quick else plan.out / "benchmarks" / "replicas.md"
    page.publish(data, replicas_page.report(data), COMMAND, file)
    if file:
        replicas_page.draw(data, file.with_suffix(".svg"))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description="The figures of replicas.md")
    parser.add_argument("--quick", action="store_true", help="a smoke test: few workers, short, nothing written")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--stretch", type=float, default=10.0, help="seconds that are counted of a row")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait in all for a quiet machine")
    parser.add_argument("--workers", type=int, nargs="+", help="how many worker processes, growing")
    parser.add_argument("--apis", type=int, nargs="+", help="how many API processes, growing")
    parser.add_argument("--parts", nargs="+", choices=("workers", "apis"), default=("workers", "apis"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where benchmarks/ lies")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
