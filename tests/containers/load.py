"""Keeps a service busy over its published port while something is done to it, and accounts for every job.

    python3 load.py API_URL [--ready]       with API_KEY in the environment where keys are on

Prints `loaded` when a pile of jobs waits, `worker N: NAME` when the N-th worker has answered. Goes on until SIGTERM;
then every job that was accepted must have succeeded, once: in its record, in the list of the jobs, and in the service's
own count. --ready: a worker that serves the model must be there all the time. Standard library only. Exit code 0 if all
holds.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from uuid import uuid4

from check_stack import Refused, Unavailable, call, ended, with_key

MODEL = "bert"
PILE = 60  # jobs of 64 sentences, before anything is done
CALLERS = 8  # then each submits, waits, and submits again
AWAY = (Unavailable, URLError, ConnectionError, TimeoutError)  # for a moment: to be tried again


class Load:
    """What was accepted, and who answered."""

    def __init__(self, api: str) -> None:
        self.api = api
        self.run = f"run:{uuid4().hex}"
        self.enough = threading.Event()
        self.jobs: dict[str, dict[str, Any] | None] = {}
        self.lock = threading.Lock()
        self.workers: list[str] = []
        self.asked = 0
        self.not_ready: list[str] = []
        self.before = self.succeeded()

    def submit(self, sentences: int) -> str:
        """One job's id. Asked again, by the same key, until it is accepted: so it is one job all the same."""
        key = uuid4().hex
        body = {"model": MODEL, "input": {"texts": [f"Sentence {n} of job {key}." for n in range(sentences)]}}
        name, _, value = self.run.partition(":")
        end = time.monotonic() + 60
        while True:
            try:
                headers = {"Idempotency-Key": key, **with_key()}
                job = str(call(f"{self.api}/v1/jobs", {**body, "labels": {name: value}}, **headers)["id"])
                break
            except AWAY:
                assert time.monotonic() < end, "for a minute nothing was accepted"
                time.sleep(0.1)
        with self.lock:
            self.asked += 1
            self.jobs.setdefault(job, None)
        return job

    def finish(self, job_id: str) -> None:
        """Waits until it has succeeded."""
        job = ended(self.api, job_id)
        worker = job["timing"]["worker"]
        with self.lock:
            self.jobs[job_id] = job
            if worker not in self.workers:
                self.workers.append(worker)
                print(f"worker {len(self.workers)}: {worker}", flush=True)  # noqa: T201 - its answer

    def caller(self) -> None:
        while not self.enough.is_set():
            self.finish(self.submit(16))

    def watch(self) -> None:
        """Whether there is a worker all the time, until told to stop."""
        while not self.enough.wait(0.1):
            try:
                call(f"{self.api}/readyz?model={MODEL}", **with_key())
            except (Unavailable, Refused, OSError) as error:
                self.not_ready.append(str(error))

    def succeeded(self) -> int:
        """How many jobs of the model ever have, as the service counts them."""
        text = call(f"{self.api}/metrics", **with_key())
        found = re.findall(rf'^ml_jobs{{model="{MODEL}",state="succeeded",version="[^"]*"}} (\S+)', text, re.M)
        return int(sum(map(float, found)))

    def listed(self) -> list[dict[str, Any]]:
        """Its jobs as the service lists them."""
        found, cursor = [], ""
        while cursor is not None:
            query = f"label={quote(self.run)}&limit=200" + (f"&cursor={cursor}" if cursor else "")
            page = call(f"{self.api}/v1/jobs?{query}", **with_key())
            found += page["data"]
            cursor = page["next"]
        return found

    def account(self) -> str:
        """Every accepted job has succeeded, and there is no other."""
        lost = [job_id for job_id, job in self.jobs.items() if job is None]
        assert not lost, lost
        assert len(self.jobs) == self.asked, "two calls were given the same job"
        rows = self.listed()
        assert sorted(row["id"] for row in rows) == sorted(self.jobs), f"{len(rows)} listed, {len(self.jobs)} accepted"
        assert {row["state"] for row in rows} == {"succeeded"}
        end = time.monotonic() + 10
        while self.succeeded() - self.before < len(self.jobs) and time.monotonic() < end:
            time.sleep(0.2)
        assert self.succeeded() - self.before == len(self.jobs), "an outcome was counted twice, or not at all"
        assert not self.not_ready, f"{len(self.not_ready)} times no worker was there: {self.not_ready[0]}"
        again = sum(job["attempt"] > 1 for job in self.jobs.values() if job)
        return f"{len(rows)} jobs succeeded once, {again} of them in a second attempt, by {len(self.workers)} workers"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("api")
    parser.add_argument("--ready", action="store_true")
    options = parser.parse_args()
    load = Load(options.api)
    signal.signal(signal.SIGTERM, lambda number, frame: load.enough.set())
    with ThreadPoolExecutor(CALLERS) as pool:
        pile = list(pool.map(lambda n: load.submit(64), range(PILE)))
        states = [call(f"{load.api}/v1/jobs/{job_id}", **with_key())["state"] for job_id in pile[-16:]]
        assert "queued" in states, "the pile was gone before anything could happen to it"
        running = [pool.submit(load.caller) for _ in range(CALLERS)]
        if options.ready:
            threading.Thread(target=load.watch, daemon=True).start()
        print("loaded", flush=True)  # noqa: T201 - its answer
        for future in running:
            future.result()
        list(pool.map(load.finish, pile))
    print(f"  {load.account()}", flush=True)  # noqa: T201 - its answer
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Refused as error:
        sys.exit(f"load: {error}")
