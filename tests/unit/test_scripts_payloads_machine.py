"""What lies in the payload store under a Hypothesis state machine: uploads, jobs that use files or bring parts of their
own, outputs, dead letters, deletes, and writers and reapers that die between any two steps.

After every step: no object is there that nobody would find; what a job, a file or a letter needs is kept for as long;
what none needs goes. In the end, when all has expired, nothing is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from local.embedded import EmbeddedServer
from shared import keys, scripts
from shared.payload_place import PayloadRef
from shared.scripts_payloads import add_file, delete_file, file_room, free, reap, stash
from shared.types import State
from tests.machines import run_machine, short_and_long
from tests.unit.test_scripts_machine import message

DEADLINE_MS, TTL_MS, DEAD_MS, GRACE_S, FILE_S, SLACK_MS = 3_600_000, 600_000, 7_200_000, 60, 300, 30_000
MOST_BYTES, MOST_FILES = 25, 4
QUEUE = keys.queue_name("m", "1")

kinds = st.sampled_from(["r", "s", "f"])
anything = st.integers(0, 1000)
ends = st.sampled_from([State.SUCCEEDED, State.FAILED, State.CANCELED])


@dataclass
class AFile:
    ref: PayloadRef
    size: int
    expired: bool = False
    deleted: bool = False
    users: set[str] = field(default_factory=set)


@dataclass
class AJob:
    own: list[PayloadRef]
    files: list[str]
    state: State = State.QUEUED
    letter: str = ""
    output: PayloadRef | None = None


class Machine(RuleBasedStateMachine):
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.made = 0
        self.disk: set[PayloadRef] = set()  # objects outside of Redis
        self.written: list[PayloadRef] = []  # by somebody who has not used them yet
        self.files: dict[str, AFile] = {}
        self.jobs: dict[str, AJob] = {}

    def run(self, call: scripts.Call[Any]) -> Any:
        return scripts.one(scripts.run(self.client, [call]))

    def new(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}{self.made}"

    def write(self, kind: str, count: int = 1) -> PayloadRef:
        ref = PayloadRef.new(kind, count)
        self.run(stash([ref], GRACE_S))
        for name in ref.objects:
            if kind == "r":
                self.client.set(keys.OBJECT + name, b"x", px=GRACE_S * 1000)
        if kind != "r":
            self.disk.add(ref)
        return ref

    # What API and workers do ------------------------------------------------------------------------

    @rule(kind=kinds)
    def a_writer_dies(self, kind: str) -> None:
        self.write(kind)

    @rule(kind=kinds)
    def write_a_part(self, kind: str) -> None:
        self.written.append(self.write(kind))

    @precondition(lambda self: self.written)
    @rule()
    def give_up(self) -> None:
        ref = self.written.pop()
        self.run(free([ref]))
        assert not self.client.zscore(keys.STORED, str(ref))

    @rule(kind=kinds, size=st.integers(0, 10), count=st.integers(1, 3), late=st.sampled_from([False, False, True]))
    def upload(self, kind: str, size: int, count: int, late: bool) -> None:
        writing = self.write(kind, 3)
        if late:
            self.client.zadd(keys.STORED, {str(writing): 1})
            self.reap(False)
        ref, file_id = PayloadRef(kind, writing.stem, count), self.new("file")
        there = [file for file in self.files.values() if not file.deleted and not file.expired]
        room = (sum(file.size for file in there), len(there))
        assert self.run(file_room("me")) == room
        call = add_file(
            file_id,
            "me",
            writing=writing,
            ref=ref,
            ttl_s=FILE_S,
            size=size,
            most_bytes=MOST_BYTES,
            most_files=MOST_FILES,
            fields={"sha256": "", "content_type": ""},
        )
        added = self.run(call)
        if late:
            assert added.status == "gone"
        elif room[0] + size > MOST_BYTES or room[1] >= MOST_FILES:
            assert (added.status, added.bytes, added.files) == ("full", *room)
        else:
            assert added.status == "added"
            for name in writing.objects[count:]:  # there never were more
                self.client.delete(keys.OBJECT + name)
            if kind != "r":
                self.disk.discard(writing)
                self.disk.add(ref)
            self.files[file_id] = AFile(ref, size)

    @rule(n=anything, uses=st.integers(0, 2))
    def submit(self, n: int, uses: int) -> None:
        own, self.written = self.written[:2], self.written[2:]
        names = sorted(self.files)
        chosen = sorted({names[(n + i) % len(names)] for i in range(uses)}) if names else []
        job_id = self.new("job")
        lost = [ref for ref in own if self.client.zscore(keys.STORED, str(ref)) is None]
        lost_files = [name for name in chosen if self.files[name].deleted or self.files[name].expired]
        reply = self.run(self._submit(job_id, own, chosen))
        if lost or lost_files:
            assert reply.status == "gone"
            assert reply.lost == (str(lost[0]) if lost else lost_files[0])
            self.run(free(own))
            return
        assert reply.status == "accepted"
        self.jobs[job_id] = AJob(own, chosen)
        for name in chosen:
            self.files[name].users.add(job_id)

    def _submit(self, job_id: str, own: list[PayloadRef], files: list[str]) -> scripts.Call[Any]:
        fields: dict[str, str | int] = {"model": "m", "version": "1", "payloads": 0, "dead_ttl_ms": DEAD_MS}
        if own:
            fields["stored"] = " ".join(map(str, own))
        if files:
            fields["files"] = " ".join(files)
        return scripts.submit(
            job_id,
            list_name=QUEUE,
            raw=message(job_id),
            ref="m@1",
            deadline_ms=DEADLINE_MS,
            ttl_ms=TTL_MS,
            size=1,
            max_jobs=1000,
            max_bytes=1_000_000,
            fields=fields,
        )

    @precondition(lambda self: self._open())
    @rule(n=anything, state=ends, kind=st.sampled_from(["", "", "s", "f"]))
    def end(self, n: int, state: State, kind: str) -> None:
        job_id = self._open()[n % len(self._open())]
        job = self.jobs[job_id]
        if state is State.CANCELED:
            self.run(scripts.cancel(job_id))
        else:
            output = self.write(kind) if kind and state is State.SUCCEEDED else None
            self._finish(job_id, state, output)
            job.output = output
        self._ended(job_id, state)

    @precondition(lambda self: any(job.state.terminal for job in self.jobs.values()))
    @rule(n=anything, kind=st.sampled_from(["s", "f"]))
    def end_again(self, n: int, kind: str) -> None:
        """Who lost its lease comes with an output of its own, which goes."""
        done = sorted(name for name, job in self.jobs.items() if job.state.terminal)
        late = self.write(kind)
        self._finish(done[n % len(done)], State.SUCCEEDED, late)
        assert self.client.zscore(keys.STORED, str(late)) is None

    def _finish(self, job_id: str, state: State, output: PayloadRef | None) -> None:
        stored = str(output) if output else ""
        self.run(scripts.finish(job_id, tag="", state=state, code="", meta=b"{}", ttl_ms=1000, stored=stored))

    @precondition(lambda self: self._open())
    @rule()
    def bury(self) -> None:
        drained = self.run(scripts.drain([QUEUE], [50], process="p"))
        for tag in drained.tags:
            name = tag.decode()
            ended = self.jobs[name].state.terminal
            assert self.run(scripts.bury(name, "rejected")) is not ended
            if not ended:
                self._ended(name, State.FAILED)
                self.jobs[name].letter = self.client.hget(keys.JOB + name, "letter").decode()

    @precondition(lambda self: any(job.letter for job in self.jobs.values()))
    @rule(n=anything, drop=st.booleans())
    def a_letter(self, n: int, drop: bool) -> None:
        names = sorted(name for name, job in self.jobs.items() if job.letter)
        old = names[n % len(names)]
        job, job_id = self.jobs[old], self.new("job")
        if drop:
            assert self.run(scripts.drop(job.letter, job_id=old, payloads=0))
            job.letter = ""
            for ref in job.own:
                assert self.client.zscore(keys.STORED, str(ref)) is None
            job.own = []
            return
        fields: dict[str, str | int] = {"dead_ttl_ms": DEAD_MS, "payloads": 0}
        fields |= {"stored": " ".join(map(str, job.own))} if job.own else {}
        fields |= {"files": " ".join(job.files)} if job.files else {}
        call = scripts.retry(
            job.letter,
            old_id=old,
            payloads=0,
            job_id=job_id,
            list_name=QUEUE,
            raw=message(job_id),
            ref="m@1",
            deadline_ms=DEADLINE_MS,
            ttl_ms=TTL_MS,
            size=1,
            fields=fields,
        )
        status = self.run(call).status
        if any(self.files[name].deleted for name in job.files):
            assert status == "payload"
            return
        assert status == "retried"
        job.letter = ""
        self.jobs[job_id] = AJob(job.own, job.files)
        job.own = []
        for name in job.files:
            self.files[name].users.add(job_id)

    @precondition(lambda self: self.files)
    @rule(n=anything)
    def delete_file(self, n: int) -> None:
        name = sorted(self.files)[n % len(self.files)]
        file = self.files[name]
        there = bool(self.client.exists(keys.FILE + name))
        assert self.run(delete_file(name)) is (there and not file.deleted)
        file.deleted |= there

    # What time does ---------------------------------------------------------------------------------

    @precondition(lambda self: self.files)
    @rule(n=anything)
    def a_file_expires(self, n: int) -> None:
        name = sorted(self.files)[n % len(self.files)]
        file = self.files[name]
        if not file.deleted and not file.expired:
            file.expired = True
            self.client.hset(keys.FILE + name, "expires_at", 1)
            self.client.zadd(keys.FILES + "me", {f"{name} {file.size}": 1})
            if not file.users and not self._in_letter(name):
                self.client.zadd(keys.STORED, {str(file.ref): 1}, xx=True)
                self.client.delete(keys.FILE + name)

    @rule()
    def what_nobody_needs_expires(self) -> None:
        for ref in self._stored():
            if ref not in self._needed():
                self.client.zadd(keys.STORED, {str(ref): 1})
        self.written = [ref for ref in self.written if ref in self._needed()]

    @rule(dies=st.booleans())
    def reap(self, dies: bool) -> None:
        for text in self.run(reap(limit=100, again_s=60)):
            self.disk.discard(PayloadRef.parse(text))
            if not dies:
                self.client.zrem(keys.DOOMED, text)
        if dies:
            for text in self.client.zrange(keys.DOOMED, 0, -1):
                self.client.zadd(keys.DOOMED, {text: 1})  # a minute later

    # What is true -----------------------------------------------------------------------------------

    @invariant()
    def every_object_is_found_by_somebody(self) -> None:
        known = self._stored() | {PayloadRef.parse(text.decode()) for text in self.client.zrange(keys.DOOMED, 0, -1)}
        assert self.disk <= known
        names = {key.decode().removeprefix(keys.OBJECT) for key in self.client.scan_iter(f"{keys.OBJECT}*")}
        mine = {name for ref in self._stored() if ref.kind == "r" for name in ref.objects}
        assert names <= mine, "an object in Redis goes with its reference"
        assert all(self.client.pttl(keys.OBJECT + name) > 0 for name in names)

    @invariant()
    def what_is_needed_is_kept(self) -> None:
        seconds, micros = self.client.time()
        now = seconds * 1000 + micros // 1000
        for ref, for_ms in self._needed().items():
            score = self.client.zscore(keys.STORED, str(ref))
            assert score is not None, ref
            assert score >= now + for_ms - SLACK_MS
            if ref.kind == "r":
                assert all(self.client.pttl(keys.OBJECT + name) >= for_ms - SLACK_MS for name in ref.objects)

    @invariant()
    def what_nobody_needs_any_more_is_gone(self) -> None:
        stored = self._stored()
        for job in self.jobs.values():
            if job.state in (State.SUCCEEDED, State.CANCELED):
                assert not stored & set(job.own)
        for file in self.files.values():
            if file.deleted and not file.users:
                assert file.ref not in stored

    def teardown(self) -> None:
        for ref in self._stored():
            self.client.zadd(keys.STORED, {str(ref): 1})
        self.reap(False)
        assert not self.disk
        assert not self.client.exists(keys.STORED, keys.DOOMED)
        assert not list(self.client.scan_iter(f"{keys.OBJECT}*"))

    def _needed(self) -> dict[PayloadRef, int]:
        """What must be there, and for how long at least (ms)."""
        needed: dict[PayloadRef, int] = {}

        def keep(ref: PayloadRef, for_ms: int) -> None:
            needed[ref] = max(needed.get(ref, 0), for_ms)

        for file in self.files.values():
            if not (file.deleted or file.expired):
                keep(file.ref, FILE_S * 1000)
        for job in self.jobs.values():
            for_ms = DEAD_MS if job.letter else TTL_MS if job.state.terminal else DEADLINE_MS + TTL_MS
            if not job.state.terminal or job.state is State.FAILED:
                for ref in job.own:
                    keep(ref, for_ms)
                for name in job.files:
                    if not self.files[name].deleted or not job.state.terminal:
                        keep(self.files[name].ref, for_ms)
            if job.output is not None:
                keep(job.output, TTL_MS)
        return needed

    def _stored(self) -> set[PayloadRef]:
        return {PayloadRef.parse(text.decode()) for text in self.client.zrange(keys.STORED, 0, -1)}

    def _open(self) -> list[str]:
        return sorted(name for name, job in self.jobs.items() if not job.state.terminal)

    def _in_letter(self, file_id: str) -> bool:
        return any(file_id in job.files and (job.letter or job.state is State.FAILED) for job in self.jobs.values())

    def _ended(self, job_id: str, state: State) -> None:
        self.jobs[job_id].state = state
        for name in self.jobs[job_id].files:
            self.files[name].users.discard(job_id)


@short_and_long
@pytest.mark.usefixtures("store")
def test_nothing_is_lost_and_nothing_is_left(server: EmbeddedServer, times: int) -> None:
    run_machine(Machine, server, examples=10, times=times, steps=40)
