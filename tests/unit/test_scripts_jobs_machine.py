"""The state machine of the scripts, with lists of jobs, followers and progress in between.

After every step: each owner's list has its jobs that are there, the newest first, whatever the page's size, and lives
as long as the last of them; progress stands where the worker that runs a job has told it, and goes with its run; what
a run has said stands there once, however often it is sent; and all that test_scripts_machine.py holds the jobs to.
"""

from __future__ import annotations

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from local.embedded import EmbeddedServer
from shared import keys, scripts
from shared.scripts_jobs import Place, list_jobs, progress, say
from shared.types import State
from tests.machines import run_machine, short_and_long
from tests.unit.test_scripts_machine import OWNERS, REFS, TTL_MS, Machine, anything, process

PIECES = st.sampled_from([b"ab", b"abab", b"b"])


class WithLists(Machine):
    def __init__(self) -> None:
        self.progress: dict[str, bytes] = {}
        self.said: dict[tuple[str, int], bytes] = {}
        super().__init__()

    @precondition(lambda self: self.jobs)
    @rule(name=process, n=anything, told=st.sampled_from([b'{"fraction":0.5}', b'{"fraction":0.7}']))
    def tell(self, name: str, n: int, told: bytes) -> None:
        """Whoever runs it, or believes so."""
        job_id, job = self._pick(n)
        heard = self.run(progress(job_id, told, process=name))
        assert heard == (job.state is State.RUNNING and job.runner == name)
        if heard:
            self.progress[job_id] = told

    @precondition(lambda self: self.jobs)
    @rule(name=process, n=anything, at=st.integers(0, 6), piece=PIECES, late=st.booleans())
    def speak(self, name: str, n: int, at: int, piece: bytes, late: bool) -> None:
        """Whoever runs it, or believes so, or has run it."""
        job_id, job = self._pick(n)
        if job.due:  # what it says is gone with the deadline
            return
        attempt = int(self.client.hget(keys.JOB + job_id, "attempt") or 0) - late
        before = self.said.get((job_id, attempt), b"")
        kept = self.run(say(job_id, piece, process=name, attempt=attempt, at=at, most_bytes=5))
        runs = job.state is State.RUNNING and job.runner == name and not job.marked and not late
        fits = at <= len(before) and piece.startswith(before[at : at + len(piece)])
        whole = before[:at] + piece
        if runs and fits and len(whole) > len(before):
            self.said[job_id, attempt] = whole[:5]
        assert kept == (runs and fits and len(whole) <= 5)

    @precondition(lambda self: self.jobs)
    @rule(n=anything, channel=st.sampled_from(["c1", "c2"]))
    def listen(self, n: int, channel: str) -> None:
        job_id, job = self._pick(n)
        seen = self.run(scripts.watch(job_id, channel=channel, listen=True))
        assert seen.record["state"] == job.state
        for name in ("waiters", "listeners"):
            channels = self.client.hget(keys.JOB + job_id, name) or b""
            assert job.state.terminal or channels.split(b"\n").count(channel.encode()) == 1

    @precondition(lambda self: len(self.jobs) > 2)
    @rule(n=anything)
    def an_ended_one_expires(self, n: int) -> None:
        job_id, job = self._pick(n)
        if job.state.terminal and not self.client.hexists(keys.JOB + job_id, "letter"):
            self.client.delete(keys.JOB + job_id, keys.OUTCOME + job_id, keys.payload_key(job_id, 0))
            if job.key:
                self.client.delete(keys.IDEMPOTENCY + job.key)
            self.client.lrem(job.lane, 0, job.raw)
            for name in [name for name in self.held if job_id in self.held[name]]:
                self.run(scripts.ack([job_id], process=name))
                self._forget(name, job_id)
            if job_id in self.filed:
                self.run(scripts.ack([job_id], process=self.filed.pop(job_id)))
            del self.jobs[job_id]

    @rule(owner=st.sampled_from(OWNERS), limit=st.integers(1, 4), look=st.integers(1, 5))
    def walk(self, owner: str, limit: int, look: int) -> None:
        """All pages, of any size."""
        found: list[str] = []
        place: Place | None = None
        for _ in range(len(self.jobs) * 2 + self.made + 2):
            page = self.run(list_jobs(owner, most=limit, look=look, place=place))
            assert len(page.jobs) <= limit
            found += [job_id for job_id, _ in page.jobs]
            place = page.place
            if place is None:
                break
        assert place is None
        assert found == self._listed(owner)

    @rule(owner=st.sampled_from(OWNERS), state=st.sampled_from(State))
    def filter(self, owner: str, state: State) -> None:
        page = self.run(list_jobs(owner, most=100, look=1000, states=[state], model="m", version="v"))
        assert [job_id for job_id, _ in page.jobs] == [
            job_id for job_id in self._listed(owner) if self.jobs[job_id].state is state
        ]
        assert all(bool(seen.meta) == (state in ("failed", "canceled")) for _, seen in page.jobs)
        assert self.run(list_jobs(owner, most=100, look=1000, model="other")).jobs == []

    @invariant()
    def lists_have_their_jobs(self) -> None:
        for owner in OWNERS:
            index = keys.JOBS + owner
            listed = self._listed(owner)
            entries = self.client.zrange(index, 0, -1, desc=True)
            there = [raw.decode() for raw in entries if raw.decode() in self.jobs]
            assert there == listed
            if listed:
                longest = max(self.client.pttl(keys.JOB + job_id) for job_id in listed)
                assert self.client.pttl(index) >= longest - 1000

    @invariant()
    def progress_is_what_was_told(self) -> None:
        for job_id in self.jobs:
            assert self.client.hget(keys.JOB + job_id, "progress") == self.progress.get(job_id)

    @invariant()
    def what_was_said_is_there_once(self) -> None:
        for (job_id, attempt), text in self.said.items():
            found = self.client.get(keys.said_key(job_id, attempt))
            assert found == text or (found is None and job_id not in self.jobs)

    def _listed(self, owner: str) -> list[str]:
        mine = [job_id for job_id, job in self.jobs.items() if job.owner == owner]
        made = {job_id: int(self.client.hget(keys.JOB + job_id, "created_at") or 0) for job_id in mine}
        return sorted(mine, key=lambda job_id: (made[job_id], job_id.encode()), reverse=True)

    def _went_back(self, tags: list[str], back: list[str]) -> None:
        running = [tag for tag in tags if tag in self.jobs and self.jobs[tag].state is State.RUNNING]
        super()._went_back(tags, back)
        for tag in running:
            if self.jobs[tag].state is State.QUEUED:
                self.progress.pop(tag, None)


@short_and_long
@pytest.mark.usefixtures("store")
def test_any_order_keeps_the_lists(server: EmbeddedServer, times: int) -> None:
    run_machine(WithLists, server, examples=6, times=times)


def test_dead_entries_are_about_as_many_as_living_ones_at_most(store: redis.Redis) -> None:
    """In a list that 3,000 jobs come to, of which the last hundred live at any time."""
    most, index = 0, keys.JOBS + "anonymous"
    for n in range(3000):
        call = scripts.submit(
            f"job-{n}",
            list_name="ml.echo.1",
            raw=b"{}",
            ref=REFS[0],
            deadline_ms=60_000,
            ttl_ms=TTL_MS,
            size=1,
            max_jobs=10_000,
            max_bytes=10**9,
        )
        scripts.run(store, [call])
        if n >= 100:
            store.delete(f"{keys.JOB}job-{n - 100}")
        most = max(most, store.zcard(index))
    assert 100 < most < 350, "100 that live, and about as many that do not"
