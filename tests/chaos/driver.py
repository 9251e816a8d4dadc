"""One seed: load, events in a random order, quiet, second reading, what is left; then the judge."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from benchmarks.client import read
from shared import keys
from tests.chaos import reference
from tests.chaos.caller import of_job
from tests.chaos.events import LEASE_S, Events
from tests.chaos.journal import Journal
from tests.chaos.judge import KINDS, Left, Run, Terms, Verdict, judge
from tests.chaos.records import Call, Event, Tail, read_calls
from tests.chaos.stack import REPOSITORY, Process, Stack, until

MODELS = f"""
models:
  {reference.MODEL}:
    handler: {REPOSITORY}/tests/chaos/handler.py:Reckon
    versions: {{"1": {{}}}}
    batch: {{max_size: 16}}
"""
ENVIRONMENT = {"ML_LEASE_S": f"{LEASE_S:g}", "ML_HEARTBEAT_S": "1", "ML_AUTH": "on"}
EACH_KIND = 2
_HTTP_PROCESSES, _WIDTH = 2, 32
_CELERY_SHARE = 0.15
_ASSEMBLED = 1000  # so many answers are read again in one go


@dataclass(frozen=True, slots=True)
class Plan:
    """Of each seed. `rate`: jobs a second that the callers aim at. `ratio`: see judge.Terms. `limit_s`: for all."""

    jobs: int
    rate: float
    workers: int
    ratio: float
    limit_s: float


@dataclass(slots=True)
class Result:
    """One seed's verdict and what led to it."""

    seed: int
    verdict: Verdict
    terms: Terms
    events: list[Event]
    wall_s: float
    begun: float
    calls: list[Call] = field(repr=False, default_factory=list)


class _Accepted:
    """The jobs that the callers know to be accepted."""

    def __init__(self, logs: list[Path]) -> None:
        self._tails = [Tail(log) for log in logs]
        self._numbers: set[int] = set()

    def refresh(self) -> set[int]:
        """Up to now."""
        self._numbers.update(line["n"] for tail in self._tails for line in tail.read() if line["job_id"])
        return self._numbers


class Driver:
    """One seed on one stack. Raises TimeoutError or RuntimeError when the run itself cannot go on."""

    def __init__(self, seed: int, plan: Plan, stack: Stack) -> None:
        self._seed, self._plan, self._stack = seed, plan, stack
        self._begun = time.monotonic()
        self._rng = random.Random(seed)
        self._died: list[str] = []
        self._callers: list[Process] = []
        self._logs: list[Path] = []

    def run(self) -> Result:
        """All of it."""
        self._start_callers()
        journal = Journal(self._stack.journal)
        events = Events(self._stack, journal, self._callers[:_HTTP_PROCESSES], self._rng)
        done = self._do_all(events)
        self._end_load()
        calls = [call for log in self._logs for call in read_calls(log)]
        calls += self._second_reading(calls)
        self._stop_stack()
        left = self._left()
        back_s = max(event.back_s for event in done)
        terms = Terms(self._plan.jobs, LEASE_S + back_s + 10, self._plan.ratio, EACH_KIND, EACH_KIND * len(KINDS))
        run = Run(calls, journal.executions(), done, left, self._died + events.failed)
        verdict = judge(run, terms, partial(reference.expected, self._seed))
        return Result(self._seed, verdict, terms, done, time.monotonic() - self._begun, self._begun, calls)

    def _start_callers(self) -> None:
        step = _HTTP_PROCESSES + 1
        http_rate = self._plan.rate * (1 - _CELERY_SHARE) / _HTTP_PROCESSES
        for first in range(step):
            http = first < _HTTP_PROCESSES
            log = self._stack.folder / f"calls-{first}.jsonl"
            shared = {"seed": self._seed, "first": first, "step": step, "log": log}
            own: dict[str, Any] = {"url": self._stack.url, "rate": http_rate, "width": _WIDTH}
            if not http:
                own = {"url": self._stack.server.url, "rate": self._plan.rate * _CELERY_SHARE}
            options = [f"--{name}={value}" for name, value in (shared | own).items()]
            self._logs.append(log)
            self._callers.append(self._stack.caller("caller" if http else "producer", *options))
        until(lambda: all(any(Tail(log).read()) for log in self._logs), 30, "every process of callers has called")

    def _do_all(self, events: Events) -> list[Event]:
        """Every kind as often as it must come, and on and on until there are enough jobs."""
        accepted = _Accepted(self._logs)
        done: list[Event] = []
        order: list[str] = []
        while len(done) < EACH_KIND * len(KINDS) or len(accepted.refresh()) < self._plan.jobs:
            if not order:
                order = list(KINDS) * EACH_KIND
                self._rng.shuffle(order)
            self._pause(self._rng.uniform(0.1, 3.5))
            done.append(events.do(order.pop()))
            if time.monotonic() - self._begun > self._plan.limit_s:
                raise TimeoutError(f"seed {self._seed} takes longer than {self._plan.limit_s:g} s")
        self._pause(LEASE_S)
        return done

    def _pause(self, seconds: float) -> None:
        """The load goes on. What ends meanwhile, ends unasked; it is started again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._mend()
            time.sleep(0.05)

    def _mend(self) -> None:
        parts = ((self._stack.workers, self._stack.begin_worker), (self._stack.apis, self._stack.begin_api))
        for processes, begin in parts:
            for place, process in enumerate(processes):
                if not process.lives():
                    self._died.append(f"{process.name} ended unasked with {process.popen.returncode}")
                    processes[place] = begin()
                    self._stack.ready(processes[place])
        for process in self._callers:
            if not process.lives():
                raise RuntimeError(f"{process.name} has ended:\n{process.log.read_text()[-3000:]}")

    def _end_load(self) -> None:
        """The callers begin nothing new and get their answers; then nothing may be held for long."""
        for process in self._callers:
            process.popen.send_signal(signal.SIGTERM)
        for process in self._callers:
            process.ended(within_s=150)
            if process.popen.returncode:
                raise RuntimeError(f"{process.name} has failed:\n{process.log.read_text()[-3000:]}")
        end = time.monotonic() + 2 * LEASE_S + 10
        while time.monotonic() < end and self._stack.client.hlen(keys.UNACKED):
            time.sleep(0.1)

    def _second_reading(self, calls: list[Call]) -> list[Call]:
        """Every accepted job once more, when all is over; by an API without keys, since plain Celery's are no key's."""
        self._stop_all(self._stack.apis)
        self._stack.apis = [self._stack.begin_api(ML_AUTH="off")]
        self._stack.ready(self._stack.apis[0])
        pairs = list({(call.n, call.job_id) for call in calls if call.job_id})
        found = []
        for at in range(0, len(pairs), _ASSEMBLED):
            some = pairs[at : at + _ASSEMBLED]
            sent = time.monotonic()
            told = read(self._stack.url, [f"/v1/jobs/{job_id}" for _, job_id in some], 16)
            now = time.monotonic()
            for (n, job_id), status, body in zip(some, told.statuses, told.bodies, strict=True):
                job = orjson.loads(body)
                if status == 200:
                    found.append(of_job(Call(n, "again", sent, now, status), job))
                else:
                    found.append(Call(n, "again", sent, now, status, str(job.get("code")), job_id))
        return found

    def _stop_stack(self) -> None:
        self._stop_all(self._stack.workers + self._stack.apis)

    def _stop_all(self, processes: list[Process]) -> None:
        for process in processes:
            if process.lives() and (code := process.stop()):
                self._died.append(f"{process.name} ended with {code} after SIGTERM, in the end")

    def _left(self) -> Left:
        client = self._stack.client
        names = list(client.scan_iter(count=1000))
        lists = [keys.queue_list(keys.INTAKE, priority) for priority in keys.PRIORITIES]
        lists += [name.decode() for name in names if name.startswith(f"ml.{reference.MODEL}.".encode())]
        pipe = client.pipeline(transaction=False)
        for name in names:
            pipe.ttl(name)
        forever = [name.decode() for name, ttl in zip(names, pipe.execute(), strict=True) if ttl == -1]
        of_keys = (keys.LANE, keys.TURNS, keys.OWNED, keys.ACTIVE)  # gone when nothing waits or runs
        counters: Counter[str] = Counter()
        for name in names:
            if name.startswith(keys.COUNTERS.encode()):
                counters.update({str(field, "ascii"): int(n) for field, n in client.hgetall(name).items()})
        return Left(
            unacked=client.hlen(keys.UNACKED),
            leases=client.zcard(keys.LEASES),
            queued=sum(client.llen(name) for name in lists),
            deadlines=client.zcard(keys.DEADLINES),
            dead_letters=client.xlen(keys.DEAD),
            workers=sum(name.startswith(keys.WORKER.encode()) for name in names),
            counters=counters,
            forever=[name for name in forever if not keys.NO_TTL.match(name) or name.startswith(of_keys)],
        )
