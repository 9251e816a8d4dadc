"""`python -m benchmarks.cpu_share`: what it costs when the workers of one host do not divide its cores.

The whole stack with one worker, and with two: each with a thread a core, and each with its part. 64 callers, a text of
5 to 200 words a call, through the repository's own bert.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchmarks import stack
from benchmarks.client import ask
from benchmarks.figures import percentile
from benchmarks.texts import texts

ROOT = Path(__file__).resolve().parents[1]
CALLERS, WARM, CALLS = 64, 64, 600


def main() -> int:
    """Prints a row for each way, and no more: how much a fight costs depends on the machine."""
    cores = str(os.cpu_count() or 1)
    print(f"{cores} cores, {CALLERS} callers, {CALLS} texts")
    ways = [("one worker", 1, {})]
    for number in (2, 4):
        ways += [
            (f"{number}, each with all cores", number, {"ML_TORCH_THREADS": cores}),
            (f"{number}, shared", number, {}),
        ]
    for name, workers, env in ways:
        with (
            tempfile.TemporaryDirectory(prefix="ml-bench-") as folder,
            stack.running(Path(folder), ROOT / "models.yaml", "bert", workers, **env) as running,
        ):
            bodies = [{"model_type": "bert", "data": {"text": text}} for text in texts(WARM + CALLS)]
            ask(f"{running.url}/inference", bodies[:WARM], CALLERS)
            seen = ask(f"{running.url}/inference", bodies[WARM:], CALLERS)
        if set(seen.statuses) != {200}:
            print(f"{name}: not every call was answered well: {set(seen.statuses)}", file=sys.stderr)
            return 1
        p50, p99 = (percentile(seen.latencies_s, share) for share in (0.5, 0.99))
        print(f"{name:26} {CALLS / seen.wall_s:6.1f} texts/s   p50 {p50:.2f} s   p99 {p99:.2f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
