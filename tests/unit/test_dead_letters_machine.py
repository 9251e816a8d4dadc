"""The state machine of the scripts, with dead letters in between: buried, retried and dropped in any order.

After every step: a job knows its letter and the letter its job, which has failed; no letter comes back; and all that
tests/unit/test_scripts.py holds the jobs to holds for retries too.
"""

from __future__ import annotations

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from local.server import EmbeddedServer
from shared import keys, messages, scripts
from shared.types import State
from tests.unit.test_scripts import LIST, MAX_ATTEMPTS, REF, Machine, anything, process


class WithLetters(Machine):
    def __init__(self) -> None:
        super().__init__()
        self.letters: dict[str, str] = {}
        self.gone: dict[str, str] = {}

    @precondition(lambda self: any(self.held.values()))
    @rule(name=process, n=anything)
    def bury(self, name: str, n: int) -> None:
        mine = self.held[name]
        if name not in self.living or not mine:
            return
        job = mine[n % len(mine)]
        held, had = self.client.hexists(keys.UNACKED, job), self.state(job)
        assert self.run(scripts.bury(job, "rejected")) is (held and not had.terminal)
        assert self.state(job) is (State.FAILED if held and not had.terminal else had)
        self.forget(job)

    @precondition(lambda self: any(self.held.values()))
    @rule(name=process, n=anything)
    def kill(self, name: str, n: int) -> None:
        """Each process that runs this job alone dies of it, until it has ended."""
        mine = self.held[name]
        if name not in self.living or not mine:
            return
        job = mine[n % len(mine)]
        for number in range(2 + MAX_ATTEMPTS):
            call = scripts.claim([job], process=f"gone-{number}", worker="w", max_attempts=MAX_ATTEMPTS, solo=True)
            (verdict,) = self.run(call)
            if verdict.status == "ended":
                break
        assert verdict.state is self.state(job)
        assert self.state(job).terminal
        self.client.hdel(keys.UNACKED, job)  # as the worker's ack does
        self.client.zrem(keys.LEASES, job)
        self.forget(job)

    @precondition(lambda self: self.letters)
    @rule(n=anything)
    def retry(self, n: int) -> None:
        letter = sorted(self.letters)[n % len(self.letters)]
        job_id = f"job-{len(self.jobs)}"
        old = self.letters.pop(letter)
        assert self.run(self.call(letter, old, job_id)).status == "retried"
        self.gone[letter] = old
        self.jobs.append(job_id)
        assert (self.state(job_id), self.record(job_id)["retried_from"]) == (State.QUEUED, old)

    @precondition(lambda self: self.letters)
    @rule(n=anything)
    def drop(self, n: int) -> None:
        letter = sorted(self.letters)[n % len(self.letters)]
        old = self.gone[letter] = self.letters.pop(letter)
        assert self.run(scripts.drop(letter, job_id=old, payloads=0))

    @precondition(lambda self: self.gone)
    @rule(n=anything)
    def too_late(self, n: int) -> None:
        letter = sorted(self.gone)[n % len(self.gone)]
        assert self.run(self.call(letter, self.gone[letter], "never")).status == "gone"
        assert not self.run(scripts.drop(letter, job_id=self.gone[letter], payloads=0))

    @invariant()
    def each_letter_is_of_a_failed_job(self) -> None:
        letters = {number.decode(): fields[b"id"].decode() for number, fields in self.client.xrange(keys.DEAD)}
        for letter, job in letters.items():
            assert (self.state(job), self.record(job)["letter"]) == (State.FAILED, letter)
        assert {job for job in self.jobs if "letter" in self.record(job)} == set(letters.values())
        assert len(set(letters.values())) == len(letters), "one letter a job"
        assert letters.items() >= self.letters.items()
        dead = {job for job in self.jobs if self.record(job).get("code") in ("attempts_exhausted", "model_unavailable")}
        assert dead == {*letters.values(), *self.gone.values()}
        assert not letters.keys() & self.gone.keys()
        self.letters = letters

    def call(self, letter: str, old: str, job_id: str) -> scripts.Call[scripts.Retried]:
        raw = messages.build(job_id, queue="q", priority=keys.NORMAL, model="echo", version="1", input=[])
        return scripts.retry(
            letter,
            old_id=old,
            payloads=0,
            job_id=job_id,
            list_name=LIST,
            raw=raw,
            ref=REF,
            deadline_ms=3_600_000,
            ttl_ms=3_600_000,
            size=10,
            fields={"model": "echo", "version": "1", "retried_from": old, "suspect": "1"},
        )


@pytest.mark.usefixtures("store")
def test_any_order_keeps_the_promises_with_letters(server: EmbeddedServer) -> None:
    WithLetters.client = redis.Redis.from_url(server.url)
    try:
        run_state_machine_as_test(
            WithLetters,
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    finally:
        WithLetters.client.flushall()
        WithLetters.client.close()
