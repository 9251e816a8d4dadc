"""`python -m tests.chaos.failover` (`make bench-failover`): the figures of docs/benchmarks/failover.md.

A primary, two replicas and three sentinels, an API and a worker, all real processes, under load over HTTP. The primary
is struck; how long nothing is accepted and nothing ends, and which accepted jobs the new primary does not know.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import redis

from benchmarks import page
from benchmarks.figures import median
from tests.conftest import wait_until
from tests.processes import REPOSITORY, api, worker
from tests.redis_kinds import DOWN_MS, Watched, freeze, hand_over, kill

COMMAND = "make bench-failover"
MODELS = 'models: {echo: {task: echo, versions: {"1": {}}, batch: {max_size: 16}}}'
LEASE = {"ML_LEASE_S": "6", "ML_HEARTBEAT_S": "1"}  # so that what a failover takes away is soon redelivered
CALLERS = 4  # half of them wait for their output
BEFORE, AFTER = 200, 200  # accepted jobs before the blow, and after the new primary is agreed on
WAIT_S = 20
PAUSE_MS = 5000
Strike = Callable[[Watched], None]


def pause_and_hand_over(watched: Watched) -> None:
    """The same, with writes held back until the new primary is known."""
    with redis.Redis(port=watched.primary.port) as client:
        client.client_pause(PAUSE_MS, all=False)
    hand_over(watched)


BLOWS: dict[str, tuple[str, Strike]] = {
    "kill": ("kill -9 of the primary", kill),
    "freeze": ("the primary's host is gone without a word (SIGSTOP)", freeze),
    "hand-over": ("`SENTINEL FAILOVER`, the primary lives on", hand_over),
    "paused": (f"the same, after `CLIENT PAUSE {PAUSE_MS} WRITE` on the primary", pause_and_hand_over),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """Of the API; `told` is how the page calls it."""

    key: str
    told: str
    env: dict[str, str]
    blows: tuple[str, ...] = tuple(BLOWS)


SETTINGS = (
    Setting("everysec", "`everysec`", {}),
    Setting("replica", "`replica`", {"ML_DURABILITY": "replica"}, blows=("kill", "freeze", "hand-over")),
    # After a death one of the two is left, and nothing more is accepted.
    Setting(
        "both", "`replica`, `ML_REPLICAS=2`", {"ML_DURABILITY": "replica", "ML_REPLICAS": "2"}, blows=("hand-over",)
    ),
)
UNSAFE = {("everysec", "kill"), ("everysec", "freeze"), ("everysec", "hand-over"), ("replica", "hand-over")}


class Load:
    """Callers without a pause until the end of the block; who waits for the output sends the next when it has come."""

    def __init__(self, url: str) -> None:
        self._url, self._stop = url, threading.Event()
        self.accepted: dict[str, int] = {}
        self.answered: set[str] = set()
        self.accepted_at: list[float] = []
        self.ended_at: list[float] = []
        self.refused = 0
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CALLERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Returns when all calls are answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, caller: int) -> None:
        headers = {"Prefer": f"wait={WAIT_S}"} if caller % 2 else {}
        with httpx.Client(base_url=self._url, timeout=60) as http:
            number = caller
            while not self._stop.wait(0.005):
                body = {"model": "echo", "input": number, "parameters": {"sleep_ms": 5}}
                answer = http.post("/v1/jobs", json=body, headers=headers)
                if answer.status_code in (200, 202):
                    self.accepted[answer.json()["id"]] = number
                    self.accepted_at.append(time.monotonic())
                    if answer.status_code == 200:
                        self.answered.add(answer.json()["id"])
                        self.ended_at.append(self.accepted_at[-1])
                else:
                    assert answer.status_code == 503, answer.text
                    self.refused += 1
                number += CALLERS


def strike_once(blow: str, setting: Setting) -> dict[str, Any]:
    """One failover; JSON data."""
    with ExitStack() as living:
        folder = Path(living.enter_context(tempfile.TemporaryDirectory(prefix="ml-failover-")))
        (models := folder / "models.yaml").write_text(MODELS)
        watched = living.enter_context(Watched(folder / "redis", replicas=2))
        living.enter_context(worker(watched.url, models, **LEASE))
        url = living.enter_context(api(watched.url, models, **setting.env))
        http = living.enter_context(httpx.Client(base_url=url, timeout=60))
        load = living.enter_context(Load(url))
        wait_until(lambda: len(load.accepted) > BEFORE and load.ended_at, what="the load runs")
        struck_at = time.monotonic()
        BLOWS[blow][1](watched)
        wait_until(lambda: watched.master() != watched.primary.port, timeout_s=60, what="another is primary")
        agreed_s = time.monotonic() - struck_at
        enough, ended = len(load.accepted) + AFTER, len(load.ended_at) + AFTER // 4
        wait_until(lambda: len(load.accepted) > enough and len(load.ended_at) > ended, timeout_s=60, what="it goes on")
        load.stop()
        told = judge(http, load)
        watched.primary.kill()  # a frozen one would not stop
    outage = {name: longest_gap(times, struck_at) for name, times in _times(load)}
    return {"blow": blow, "setting": setting.key, "agreed_s": agreed_s, **outage, "refused": load.refused, **told}


def _times(load: Load) -> tuple[tuple[str, list[float]], ...]:
    return ("accepted_s", load.accepted_at), ("ended_s", load.ended_at)


def longest_gap(times: list[float], since: float) -> float:
    """The longest stretch without any of them that ends after `since`, counted from there."""
    seen = [since, *(at for at in sorted(times) if at > since)]
    return max(later - at for at, later in itertools.pairwise(seen))


def judge(http: httpx.Client, load: Load) -> dict[str, int]:
    """What is unknown is lost, or forgotten where its caller has the output; all else must end, and right."""
    unknown, again = set(), 0
    for job_id, number in load.accepted.items():
        answer = http.get(f"/v1/jobs/{job_id}", params={"wait": WAIT_S})
        if answer.status_code == 404:
            unknown.add(job_id)
            continue
        job = answer.json()
        assert (job["state"], job["output"]) == ("succeeded", number), job
        again += job["attempt"] > 1
    lost, forgotten = len(unknown - load.answered), len(unknown & load.answered)
    return {"accepted": len(load.accepted), "lost": lost, "forgotten": forgotten, "run_again": again}


def report(runs: list[dict[str, Any]]) -> str:
    """By blow and setting, over the runs."""
    head = ["blow", "`ML_DURABILITY`", "runs", "sentinels agree, s", "nothing accepted, s", "nothing ended, s"]
    head += ["accepted jobs", "lost", "answered and forgotten", "run again", "calls answered 503"]
    rows = []
    for blow, (title, _) in BLOWS.items():
        for setting in SETTINGS:
            found = [run for run in runs if (run["blow"], run["setting"]) == (blow, setting.key)]
            if found:
                seconds = [_spread([run[name] for run in found]) for name in ("agreed_s", "accepted_s", "ended_s")]
                names = ("accepted", "lost", "forgotten", "run_again", "refused")
                sums = [f"{sum(run[name] for run in found):,}" for name in names]
                sums[1] = f"**{sums[1]}**"
                rows.append([title, setting.told, str(len(found)), *seconds, *sums])
    return page.table(head, rows)


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} (worst {max(seconds):.2f})"


def main() -> int:
    """1 if a job was lost that the setting should have kept; else 0, the figures tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.failover", description="The figures of failover.md")
    parser.add_argument("--runs", type=int, default=5, help="of each blow and setting")
    parser.add_argument("--blows", nargs="+", choices=BLOWS, default=list(BLOWS), help="some only")
    parser.add_argument("--page", type=Path, default=REPOSITORY / "docs" / "benchmarks" / "failover.md")
    options = parser.parse_args()
    runs = []
    for blow in options.blows:
        for setting in (one for one in SETTINGS if blow in one.blows):
            for _ in range(options.runs):
                runs.append(strike_once(blow, setting))
                print({name: round(n, 2) if isinstance(n, float) else n for name, n in runs[-1].items()}, flush=True)
    data = {**page.stamp(COMMAND), "down_after_ms": DOWN_MS, "runs": runs}
    page.publish(data, report(runs), COMMAND, options.page)
    return int(any(run["lost"] and (run["setting"], run["blow"]) not in UNSAFE for run in runs))


if __name__ == "__main__":
    raise SystemExit(main())
