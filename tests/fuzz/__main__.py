"""`make fuzz`: the fuzz tests, and every other test by Hypothesis, again and again, each round with another seed, until
the time is up or one fails. (`make test` and `make test-long` try the same examples each time.)

What fails is shown as small as Hypothesis can make it, and kept in .hypothesis: the next `make fuzz` begins with it.
Give it to the everyday tests as an `@example`, or among a fuzz test's inputs.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time

_LONGEST_TEST_S = 3600


def _round(seed: int, times: int, arguments: list[str]) -> int:
    """One run of all of them, the fuzz tests `times` as much as the everyday suite does. The exit code of pytest."""
    command = [sys.executable, "-m", "pytest", "-m", "hypothesis and not slow", f"--hypothesis-seed={seed}"]
    command += [f"--timeout={_LONGEST_TEST_S}", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, env=os.environ | {"FUZZ_TIMES": str(times)}, check=False).returncode


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=600, help="begin no further round after so long")
    parser.add_argument("--times", type=int, default=20, help="the examples of a round, in those of `make test`")
    options, arguments = parser.parse_known_args()
    begun, rounds = time.monotonic(), 0
    while (spent := time.monotonic() - begun) < options.seconds or not rounds:
        seed = random.getrandbits(32)
        print(f"fuzz: {spent:.0f} s, round {rounds + 1}, seed {seed}", flush=True)
        if failed := _round(seed, options.times, arguments):
            print(f"fuzz: found something; again with --hypothesis-seed={seed} FUZZ_TIMES={options.times}")
            return failed
        rounds += 1
    print(f"fuzz: {time.monotonic() - begun:.0f} s, {rounds} rounds, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
