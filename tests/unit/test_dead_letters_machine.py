"""The state machine of the scripts, with dead letters in between: buried, retried and dropped in any order.

After every step: a job knows its letter and the letter its job, which has failed; no letter comes back; and all that
test_scripts_machine.py holds the jobs to holds for retries too.
"""

from __future__ import annotations

import pytest
from hypothesis.stateful import invariant, precondition, rule

from local.embedded import EmbeddedServer
from shared import keys, scripts
from shared.types import State
from tests.machines import run_machine, short_and_long
from tests.unit.test_scripts_machine import (
    HOUR_MS,
    LISTS,
    MAX_ATTEMPTS,
    REFS,
    SIZE,
    TTL_MS,
    Machine,
    Model,
    anything,
    message,
    process,
)


class WithLetters(Machine):
    def __init__(self) -> None:
        super().__init__()
        self.letters: dict[str, str] = {}
        self.gone: dict[str, str] = {}
        # Two letters to begin with, or few runs would come as far as a retry.
        for ref in REFS:
            self.submit(ref, keys.NORMAL, False, "", keys.ANONYMOUS)
        self.drain("p1", [3] * len(LISTS))
        self.kill("p1", 0)
        self.bury_a_job("p1", 0)
        self.each_letter_is_of_a_failed_job()

    @precondition(lambda self: any(self.held[name] for name in self.living))
    @rule(name=process, n=anything)
    def bury_a_job(self, name: str, n: int) -> None:
        mine = [tag for tag in self.held[name] if tag in self.jobs]
        if name not in self.living or not mine:
            return
        job_id = mine[n % len(mine)]
        held, had = self.client.hexists(keys.UNACKED, job_id), self.jobs[job_id].state
        assert self.run(scripts.bury(job_id, "rejected")) is (held and not had.terminal)
        if held and not had.terminal:
            self._end(job_id, State.FAILED)
        self._forget(name, job_id)
        self.filed.pop(job_id, None)

    @precondition(lambda self: any(self.held[name] for name in self.living))
    @rule(name=process, n=anything)
    def kill(self, name: str, n: int) -> None:
        """Each process that runs this job alone dies of it, until it has ended; of a paused model none runs."""
        filed = self._filed_of(name, self.held[name])
        mine = [tag for tag in filed if tag in self.jobs and self.jobs[tag].ref not in self.paused]
        if name not in self.living or not mine:
            return
        job_id = mine[n % len(mine)]
        for number in range(2 + MAX_ATTEMPTS):
            gone = self.filed[job_id] = f"gone-{number}"
            self.client.hset(keys.HOLDERS, job_id, gone)  # redelivered to it
            expected = self._expect_claim(job_id, gone, "solo")
            call = scripts.claim([job_id], process=gone, worker="w", max_attempts=MAX_ATTEMPTS, solo=True)
            (verdict,) = self.run(call)
            assert verdict.status == expected
            if expected == "ended":
                break
        assert self.jobs[job_id].state.terminal
        self.run(scripts.ack([job_id], process=gone))
        del self.filed[job_id]
        self._forget(name, job_id)

    @precondition(lambda self: self.letters)
    @rule(n=anything)
    def retry(self, n: int) -> None:
        letter = sorted(self.letters)[n % len(self.letters)]
        job_id, old = self._new_id(), self.letters.pop(letter)
        payloads = self._payloads(old)
        call = self._retry(letter, old, job_id)
        assert self.run(call).status == "retried"
        assert self.run(call).status == "retried", "its answer was lost with the connection"
        self.gone[letter] = old
        was = self.jobs[old]
        self.jobs[job_id] = Model(was.ref, message(job_id), was.list_name, owner=was.owner, suspect=True)
        assert self.client.hget(keys.JOB + job_id, "retried_from") == old.encode()
        assert self.client.exists(keys.payload_key(job_id, 0)) == payloads, "the input has moved"
        assert not self.client.exists(keys.payload_key(old, 0))

    @precondition(lambda self: self.letters)
    @rule(n=anything)
    def drop(self, n: int) -> None:
        letter = sorted(self.letters)[n % len(self.letters)]
        old = self.gone[letter] = self.letters.pop(letter)
        assert self.run(scripts.drop(letter, job_id=old, payloads=self._payloads(old)))
        assert not self.client.exists(keys.payload_key(old, 0))

    @precondition(lambda self: self.gone)
    @rule(n=anything)
    def too_late(self, n: int) -> None:
        letter = sorted(self.gone)[n % len(self.gone)]
        old = self.gone[letter]
        assert self.run(self._retry(letter, old, "never")).status == "gone"
        assert not self.run(scripts.drop(letter, job_id=old, payloads=self._payloads(old)))

    @invariant()
    def each_letter_is_of_a_failed_job(self) -> None:
        found = {number.decode(): fields[b"id"].decode() for number, fields in self.client.xrange(keys.DEAD)}
        letters = {letter: job_id for letter, job_id in found.items() if job_id in self.jobs}
        for letter, job_id in letters.items():
            assert self.jobs[job_id].state is State.FAILED
            assert self.client.hget(keys.JOB + job_id, "letter") == letter.encode()
        assert {job_id for job_id in self.jobs if self._field(job_id, "letter")} == set(letters.values())
        assert len(set(letters.values())) == len(letters), "one letter a job"
        assert letters.items() >= self.letters.items()
        codes = ("attempts_exhausted", "model_unavailable")
        dead = {job_id for job_id in self.jobs if self._field(job_id, "code") in codes}
        assert dead == {*letters.values(), *self.gone.values()}
        assert not letters.keys() & self.gone.keys()
        self.letters = letters

    def _field(self, job_id: str, name: str) -> str:
        return (self.client.hget(keys.JOB + job_id, name) or b"").decode()

    def _payloads(self, job_id: str) -> int:
        return int(self._field(job_id, "payloads") or 0)

    def _retry(self, letter: str, old: str, job_id: str) -> scripts.Call[scripts.Retried]:
        was, payloads = self.jobs[old], self._payloads(old)
        fields: dict[str, str | int] = {"model": "m", "version": "v", "retried_from": old, "suspect": "1"}
        fields["owner"] = was.owner
        if payloads:
            fields["payloads"] = payloads
        return scripts.retry(
            letter,
            old_id=old,
            payloads=payloads,
            job_id=job_id,
            list_name=was.list_name,
            raw=message(job_id),
            ref=was.ref,
            deadline_ms=HOUR_MS,
            ttl_ms=TTL_MS,
            size=SIZE,
            fields=fields,
        )


@short_and_long
@pytest.mark.usefixtures("store")
def test_any_order_keeps_the_promises_with_letters(server: EmbeddedServer, times: int) -> None:
    run_machine(WithLetters, server, examples=10, times=times)
