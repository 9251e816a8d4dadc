"""`python -m tests.chaos.soak` (`make soak`): many jobs through one API and one worker; memory must stay flat.

Submitters queue jobs in lots and read all results; the resident memory of API and worker is looked at after every
hundredth of the jobs. The exit code is 0 when neither grew by 5 % or more between 10 % and 100 % of them.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks.client import ask, read
from benchmarks.figures import median
from benchmarks.machine import describe
from tests.chaos.stack import REPOSITORY, Stack

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
"""
FULL, GROWTH = 200_000, 0.05
LEAST = 20_000  # fewer end before there is a sample at 10 % of them
RESULT_TTL_S = 20  # a result is read at once; so Redis holds the jobs of some seconds only
_SUBMITTERS, _LOT, _CONNECTIONS = 8, 100, 4
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SHOWN = (0, 0.1, 0.25, 0.5, 0.75, 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """Bytes after so many jobs and seconds. `redis`: what it uses, `redis_keys`: how many keys it has."""

    jobs: int
    at_s: float
    api: int
    worker: int
    redis: int
    redis_keys: int


def growth(samples: Sequence[Sample], part: str, jobs: int) -> float:
    """From 10 % to 100 % of the jobs; each is the median of the samples around, for the allocator breathes."""
    early = [getattr(one, part) for one in samples if 0.08 * jobs <= one.jobs <= 0.12 * jobs]
    late = [getattr(one, part) for one in samples if 0.96 * jobs <= one.jobs]
    return median(late) / median(early) - 1


class Soak:
    """Raises RuntimeError for a wrong answer, TimeoutError when it takes too long."""

    def __init__(self, stack: Stack, jobs: int, limit_s: float) -> None:
        self._stack, self._jobs, self._limit_s = stack, jobs, limit_s
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._taken = self._done = 0
        self._stop = False

    def run(self) -> list[Sample]:
        """All jobs; a sample for each hundredth of them."""
        samples = [self._sample()]
        with ThreadPoolExecutor(_SUBMITTERS) as pool:
            submitters = [pool.submit(self._submit) for _ in range(_SUBMITTERS)]
            try:
                while not all(submitter.done() for submitter in submitters):
                    if self._done >= len(samples) * self._jobs / 100:
                        samples.append(self._sample())
                    if time.monotonic() - self._begun > self._limit_s:
                        raise TimeoutError(f"only {self._done} of {self._jobs} jobs in {self._limit_s:g} s")
                    time.sleep(0.02)
            finally:
                self._stop = True
            for submitter in submitters:
                submitter.result()
        return [*samples, self._sample()]

    def _submit(self) -> None:
        while lot := self._next_lot():
            bodies = [{"model": "echo", "input": {"n": n, "text": f"job {n}"}} for n in lot]
            queued = ask(f"{self._stack.url}/v1/jobs", bodies, _CONNECTIONS)
            paths = [f"/v1/jobs/{orjson.loads(body)['id']}?wait=30" for body in queued.bodies]
            for body, told in zip(bodies, read(self._stack.url, paths, _CONNECTIONS).bodies, strict=True):
                if orjson.loads(told).get("output") != body["input"]:
                    raise RuntimeError(f"a wrong answer: {told.decode()}")
            with self._lock:
                self._done += len(lot)

    def _next_lot(self) -> range:
        with self._lock:
            first = self._taken
            self._taken = min(self._jobs, first + _LOT)
            return range(first, first if self._stop else self._taken)

    def _sample(self) -> Sample:
        memory = self._stack.client.info("memory")["used_memory"]
        (api,), (worker,) = self._stack.apis, self._stack.workers
        at_s = round(time.monotonic() - self._begun, 1)
        return Sample(self._done, at_s, rss(api.pid), rss(worker.pid), memory, self._stack.client.dbsize())


def rss(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def table(samples: Sequence[Sample], jobs: int) -> str:
    """Some of the samples."""
    lines = ["jobs      seconds  API MB  worker MB  Redis MB  Redis keys"]
    for share in _SHOWN:
        one = min(samples, key=lambda sample: abs(sample.jobs - share * jobs))
        api, worker, store = (size / 1e6 for size in (one.api, one.worker, one.redis))
        lines.append(f"{one.jobs:<9} {one.at_s:7.1f} {api:7.1f} {worker:10.1f} {store:9.1f} {one.redis_keys:11}")
    return "\n".join(lines)


def main() -> int:
    """0 flat, 1 grown, 2 the run itself could not go on."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description="many jobs, flat memory")
    parser.add_argument("--jobs", type=int, default=FULL)
    parser.add_argument("--limit", type=float, default=1500.0, help="seconds it may take")
    parser.add_argument("--out", type=Path, help="for the figures; of a full run: docs/benchmarks/soak.json")
    options = parser.parse_args()
    if options.jobs < LEAST:
        parser.error(f"--jobs must be {LEAST} or more: memory is compared between 10 % of them and all")
    env = {"ML_RESULT_TTL_S": str(RESULT_TTL_S)}
    with tempfile.TemporaryDirectory(prefix="ml-soak-") as folder:
        try:
            with Stack(Path(folder), models=MODELS, env=env, workers=1, apis=1) as stack:
                samples = Soak(stack, options.jobs, options.limit).run()
        except (TimeoutError, RuntimeError) as error:
            print(f"cannot go on: {error}")
            return 2
    print(table(samples, options.jobs))
    grown = {part: growth(samples, part, options.jobs) for part in ("api", "worker")}
    print(", ".join(f"{part} grew by {share:.1%}" for part, share in grown.items()), f"(below {GROWTH:.0%})")
    if options.out or options.jobs >= FULL:
        out = options.out or REPOSITORY / "docs" / "benchmarks" / "soak.json"
        out.write_bytes(orjson.dumps(_figures(samples, options.jobs, grown), option=orjson.OPT_INDENT_2) + b"\n")
        print(f"figures in {out}")
    return int(max(grown.values()) >= GROWTH)


def _figures(samples: Sequence[Sample], jobs: int, grown: dict[str, float]) -> dict[str, Any]:
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m tests.chaos.soak", *sys.argv[1:]]),
        "machine": describe(),
        "jobs": jobs,
        "result_ttl_s": RESULT_TTL_S,
        "wall_s": samples[-1].at_s,
        "jobs_per_s": round(jobs / samples[-1].at_s),
        "growth": {part: round(share, 4) for part, share in grown.items()},
        "growth_limit": GROWTH,
        "samples": [asdict(one) for one in samples],
    }


if __name__ == "__main__":
    sys.exit(main())
