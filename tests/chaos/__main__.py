"""`python -m tests.chaos` (`make chaos`): accepted is never lost, judged by the callers.

Real processes under constant load are killed, stopped, cut off and paused in a seeded random order; see events.py for
what is done, judge.py for what must hold. The exit code is 0 when nothing was found.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos import report
from tests.chaos.driver import ENVIRONMENT, MODELS, Driver, Plan, Result
from tests.chaos.stack import REPOSITORY, Stack

FULL_JOBS, FULL_SEEDS = 20_000, (1, 2, 3)
RATIO = 1.02


def main() -> int:
    """0 green, 1 a fault was found, 2 the run itself could not go on."""
    options = _parse()
    full = options.jobs >= FULL_JOBS and len(options.seeds) >= len(FULL_SEEDS)
    # In few jobs the ones that a kill has cut off weigh more.
    ratio = RATIO if options.jobs >= FULL_JOBS else 1 + (RATIO - 1) * FULL_JOBS / options.jobs
    plan = Plan(options.jobs, options.rate, options.workers, ratio, options.limit)
    results: list[Result] = []
    for seed in options.seeds:
        folder = Path(tempfile.mkdtemp(prefix=f"ml-chaos-{seed}-"))
        print(
            f"seed {seed}: {options.jobs} jobs and more, at {options.rate:g} a second; everything in {folder}",
            flush=True,
        )
        try:
            with Stack(folder, models=MODELS, env=ENVIRONMENT, workers=options.workers, apis=2) as stack:
                result = Driver(seed, plan, stack).run()
        except (TimeoutError, RuntimeError) as error:
            print(f"seed {seed}: cannot go on: {error}\nlogs in {folder}")
            return 2
        print(report.text(result), flush=True)
        results.append(result)
        if result.verdict.faults or options.keep:
            print(f"logs and journal in {folder}", flush=True)
        else:
            shutil.rmtree(folder)
    if options.out or full:
        out = options.out or REPOSITORY / "docs" / "benchmarks" / "chaos.json"
        report.write(results, out)
        print(f"figures in {out}")
    return int(any(result.verdict.faults for result in results))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="kill everything, lose nothing")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(FULL_SEEDS), help="of order and times, each a run")
    parser.add_argument("--jobs", type=int, default=FULL_JOBS, help="at least so many accepted jobs a seed")
    parser.add_argument("--rate", type=float, default=180.0, help="jobs a second that the callers aim at")
    parser.add_argument("--workers", type=int, default=3, help="worker processes")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds a seed may take")
    parser.add_argument("--out", type=Path, help="for the figures; of a full run: docs/benchmarks/chaos.json")
    parser.add_argument("--keep", action="store_true", help="keep logs and journals of green seeds, too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
