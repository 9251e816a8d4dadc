"""The scripts under a Hypothesis state machine: any order of what API, workers and time may do to a few jobs.

The machine keeps a model of each job beside the server. After every step: each job is in exactly the place its state
says (a list, filed as unacked, or ended with one outcome that never changes), the counters equal what is there, every
key lives as long as it should, and attempts and suspicion are what the model says.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from local.embedded import EmbeddedServer
from shared import keys, messages, scripts, scripts_operate
from shared.types import State
from tests.machines import run_machine, short_and_long

REFS = ("echo@1", "own@2")
QUEUES = {ref: keys.queue_name(*ref.split("@")) for ref in REFS}
LISTS = keys.drained_lists([keys.INTAKE, *QUEUES.values()], messages.PLAIN)
MARK = f"{keys.PARKED}{messages.VERSION + 1}"
PROCESSES = ("p1", "p2")
OWNERS = (keys.ANONYMOUS, "key_a", "key_b")
MOST = 5  # jobs of one owner at a time
MAX_ATTEMPTS, MAX_JOBS, SIZE, TTL_MS, HOUR_MS = 2, 6, 10, 7_200_000, 3_600_000
LEASE_MS, HEARTBEAT_MS = 600_000, 60_000

process = st.sampled_from(PROCESSES)
ref_of = st.sampled_from(REFS)
priority_of = st.sampled_from(keys.PRIORITIES)
owner_of = st.sampled_from(OWNERS)
anything = st.integers(0, 1_000_000)
rarely = st.sampled_from([False, False, False, True])
some_rooms = st.lists(st.integers(0, 3), min_size=len(LISTS), max_size=len(LISTS))
all_rooms = st.just([3] * len(LISTS))


@dataclass
class Model:
    """What must be true of one job."""

    ref: str
    raw: bytes
    list_name: str
    key: str = ""
    owner: str = keys.ANONYMOUS
    state: State = State.QUEUED
    attempt: int = 0
    runner: str = ""
    how: str = ""
    suspect: bool = False
    crashes: int = 0
    marked: bool = False  # canceled while it ran
    due: bool = False  # its deadline has passed
    delayed: bool = False  # not to start yet

    @property
    def lane(self) -> str:
        """Where its message waits."""
        return keys.lane(self.list_name, self.owner)


class Machine(RuleBasedStateMachine):
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.jobs: dict[str, Model] = {}
        self.made = 0
        self.held: dict[str, list[str]] = {name: [] for name in PROCESSES}  # what each process believes to hold
        self.filed: dict[str, str] = {}  # by tag: the process that holds it in truth
        self.plain: dict[str, bytes] = {}  # messages of plain producers, by tag
        self.adopted: set[str] = set()  # of those
        self.parked = 0
        self.paused: set[str] = set()  # refs; here each model has one version
        self.outcomes: dict[str, bytes] = {}
        self.ended: Counter[tuple[str, State]] = Counter()
        self.living: set[str] = set()
        for name in PROCESSES:
            self.live(name)
        self.look()

    def run(self, call: scripts.Call[Any]) -> Any:
        return scripts.one(scripts.run(self.client, [call]))

    # What callers do ------------------------------------------------------------------------------------

    @rule(ref=ref_of, priority=priority_of, due=rarely, key=st.sampled_from(["", "", "k1", "k2"]), owner=owner_of)
    def submit(self, ref: str, priority: int, due: bool, key: str, owner: str) -> None:
        job_id, list_name = self._new_id(), keys.queue_list(QUEUES[ref], priority)
        raw = message(job_id)
        reply = self.run(
            scripts.submit(
                job_id,
                list_name=list_name,
                raw=raw,
                ref=ref,
                deadline_ms=1 if due else HOUR_MS,
                ttl_ms=TTL_MS,
                size=SIZE,
                max_jobs=MAX_JOBS,
                max_bytes=1_000_000,
                idempotency=key,
                fingerprint="f",
                ahead=keys.urgent_lists(QUEUES[ref], priority),
                after=keys.patient_lists(QUEUES[ref], priority),
                share=scripts.Share("" if owner == keys.ANONYMOUS else owner, concurrent=MOST),
                fields={"model": "m", "version": "v", "payloads": 1, "owner": owner, "items": 2},
            )
        )
        mine = [job for job in self.jobs.values() if job.ref == ref and not job.state.terminal]
        waiting = sum(not job.delayed for job in mine)
        first = next((name for name, job in self.jobs.items() if key and job.key == key), None)
        if first is not None:
            assert reply == scripts.Submitted("existing", first)
        elif owner != keys.ANONYMOUS and self._active(owner) >= MOST:
            assert (reply.status, reply.jobs, reply.limit) == ("busy", self._active(owner), "concurrent")
        elif waiting >= MAX_JOBS and not self._has_share(owner, mine):
            assert (reply.status, reply.jobs, reply.size) == ("full", waiting, len(mine) * SIZE)
        else:
            assert reply.status == "accepted"
            self.jobs[job_id] = Model(ref, raw, list_name, key, owner, due=due)
            self._pass_deadline(due)
            self.client.set(keys.payload_key(job_id, 0), b"x", px=HOUR_MS + TTL_MS)

    @rule()
    def send_plain(self) -> None:
        tag = f"plain-{self._new_id()}"
        self.plain[tag] = message(tag, ours=False)
        self.client.lpush(keys.queue_list(keys.INTAKE, keys.NORMAL), self.plain[tag])

    @precondition(lambda self: self.parked < 2)
    @rule(ref=ref_of)
    def a_newer_api_submits(self, ref: str) -> None:
        self.parked += 1
        self.client.lpush(QUEUES[ref], message(f"newer-{self._new_id()}", version=messages.VERSION + 1))

    @precondition(lambda self: self.jobs)
    @rule(n=anything)
    def cancel(self, n: int) -> None:
        job_id, job = self._pick(n)
        assert self.run(scripts.cancel(job_id)) is job.state
        if job.state is State.QUEUED:
            self._end(job_id, State.CANCELED)
        job.marked |= job.state is State.RUNNING

    @precondition(lambda self: self.jobs)
    @rule(n=anything, channel=st.sampled_from(["c1", "c2"]))
    def watch(self, n: int, channel: str) -> None:
        job_id, job = self._pick(n)
        seen = self.run(scripts.watch(job_id, channel=channel))
        assert seen.record["state"] == job.state
        assert bool(seen.meta) is job.state.terminal
        waiters = self.client.hget(keys.JOB + job_id, "waiters") or b""
        assert job.state.terminal or waiters.split(b"\n").count(channel.encode()) == 1

    # What operators do ----------------------------------------------------------------------------------

    @rule(ref=ref_of, on=st.booleans())
    def hold_back(self, ref: str, on: bool) -> None:
        changed = self.run(scripts_operate.pause(ref.partition("@")[0], on=on))
        assert changed == ((ref in self.paused) != on)
        (self.paused.add if on else self.paused.discard)(ref)

    @precondition(lambda self: self.jobs)
    @rule(ref=ref_of, most=st.integers(1, 3))
    def purge(self, ref: str, most: int) -> None:
        """Of all places; a filed message stays filed, and the claim finds the job ended."""
        waiting = [job_id for job_id, job in self.jobs.items() if job.ref == ref and job.state is State.QUEUED]
        lists = keys.drained_lists([QUEUES[ref]], messages.VERSION)
        ended = 0
        wheres: tuple[scripts_operate.Where, ...] = ("held", "delayed", "lists")
        for where in wheres:
            cursor = "0"
            while True:
                done = self.run(scripts_operate.purge(lists, [ref], where=where, cursor=cursor, most=most))
                ended, cursor = ended + done.ended, done.cursor
                if cursor == "0":
                    break
        assert ended == len(waiting)
        assert not any(self.client.llen(keys.lane(name, owner)) for name in lists for owner in OWNERS)
        for job_id in waiting:
            self._end(job_id, State.CANCELED)

    # What workers do ------------------------------------------------------------------------------------

    @precondition(lambda self: self._waits())
    @rule(name=process, rooms=all_rooms | some_rooms)
    def drain(self, name: str, rooms: list[int]) -> None:
        if name not in self.living:
            return
        self.held[name] = list(dict.fromkeys(self.held[name] + self._drain(name, rooms)))

    @precondition(lambda self: self._waits())
    @rule(name=process)
    def drain_and_hear_nothing(self, name: str) -> None:
        """The connection is lost with the answer; some heartbeats ago, of which none knew these tags."""
        if name in self.living:
            for tag in self._drain(name, [1] * len(LISTS)):
                if tag not in self.held[name]:
                    self.client.zincrby(keys.LEASES, -2 * HEARTBEAT_MS, tag)

    def _drain(self, name: str, rooms: list[int]) -> list[str]:
        tags: list[str] = []
        taken: Counter[str] = Counter()
        for list_name, raw in self.run(scripts.drain(LISTS, rooms, process=name)).messages:
            tag = orjson.loads(raw)["properties"]["delivery_tag"]
            taken[list_name] += 1
            assert not any(list_name.startswith(QUEUES[ref]) for ref in self.paused)
            known = self.jobs[tag].raw if tag in self.jobs else self.plain[tag]
            assert raw == known, "the same bytes, however often it came back"
            self.filed[tag] = name
            tags.append(tag)
        assert all(count <= rooms[LISTS.index(list_name)] for list_name, count in taken.items())
        return tags

    @precondition(lambda self: any(tag in self.plain for held in self.held.values() for tag in held))
    @rule(name=process, ref=ref_of, priority=priority_of, due=rarely, delayed=st.booleans())
    def adopt(self, name: str, ref: str, priority: int, due: bool, delayed: bool) -> None:
        tag = next((tag for tag in self.held[name] if tag in self.plain), None)
        if name not in self.living or tag is None:
            return
        job_id, list_name = f"job-of-{tag}", keys.queue_list(QUEUES[ref], priority)
        raw = message(job_id)
        call = scripts.adopt(
            tag,
            job_id,
            list_name=list_name,
            raw=raw,
            ref=ref,
            deadline_ms=HOUR_MS,
            ttl_ms=TTL_MS,
            size=SIZE,
            deadline_at=1 if due else None,
            start_at=self.client.time()[0] * 1000 + HOUR_MS if delayed else None,
            fields={"model": "m", "version": "v"},
        )
        assert self.run(call) == ("existing" if tag in self.adopted else "adopted")
        assert self.run(call) == "existing", "adopting again is harmless"
        self._forget(name, tag)
        self.filed.pop(tag, None)
        if tag not in self.adopted:
            self.adopted.add(tag)
            self.jobs[job_id] = Model(ref, raw, list_name, due=due, delayed=delayed)
            self._pass_deadline(due)

    @precondition(lambda self: any(self.held[name] for name in self.living))
    @rule(name=process, how=st.sampled_from(["", "solo", "call"]))
    def claim(self, name: str, how: str) -> None:
        mine = [tag for tag in dict.fromkeys(self.held[name]) if tag in self.jobs][: 1 if how == "solo" else None]
        if name not in self.living or not mine:
            return
        solo, call_ = how == "solo", how == "call"
        call = scripts.claim(mine, process=name, worker=name, max_attempts=MAX_ATTEMPTS, solo=solo, call=call_)
        for job_id, verdict in zip(mine, self.run(call), strict=True):
            expected = self._expect_claim(job_id, name, how)
            assert verdict.status == expected
            if expected == "ended":
                assert verdict.state is self.jobs[job_id].state
                assert self.run(scripts.ack([job_id], process=name)) == (self.filed.get(job_id) == name)
                if self.filed.get(job_id) == name:
                    del self.filed[job_id]
                self._forget(name, job_id)
            elif expected == "lost":
                self._forget(name, job_id)
            elif expected == "run":
                assert verdict.attempt == self.jobs[job_id].attempt
                created_at = self.client.hget(keys.JOB + job_id, "created_at")
                assert created_at is not None
                assert int(created_at) <= verdict.queued_at <= verdict.started_at

    def _expect_claim(self, job_id: str, name: str, how: str) -> str:
        job = self.jobs[job_id]
        if job.state.terminal:
            return "ended"
        if job.due:
            self._end(job_id, State.FAILED)
            return "ended"
        if job.marked:
            self._end(job_id, State.CANCELED)
            return "ended"
        if self.filed.get(job_id) != name:
            return "lost"
        if job.runner == name and job.state is State.RUNNING:
            return "run"
        if job.runner and job.runner != name and job.runner not in self.living:
            job.suspect, job.runner = job.suspect or job.how != "call", ""
            job.crashes += bool(job.how)
            if job.how and job.crashes >= (3 * MAX_ATTEMPTS + 1 if job.how == "call" else MAX_ATTEMPTS):
                self._end(job_id, State.FAILED)
                return "ended"
        if job.suspect and not how:
            return "suspect"
        if job.ref in self.paused:
            return "paused"
        job.state, job.attempt, job.runner, job.how = State.RUNNING, job.attempt + 1, name, how
        return "run"

    @precondition(lambda self: any(self.held[name] for name in self.living))
    @rule(name=process, n=anything, state=st.sampled_from([State.SUCCEEDED, State.FAILED]), again=st.booleans())
    def finish(self, name: str, n: int, state: State, again: bool) -> None:
        mine = [tag for tag in self.held[name] if tag in self.jobs]
        if name not in self.living or not mine:
            return
        job_id = mine[n % len(mine)]
        job = self.jobs[job_id]
        had = job.state
        stands = had if had.terminal else State.CANCELED if job.marked else state
        call = scripts.finish(job_id, tag=job_id, state=state, code="", meta=b'{"by":"worker"}', ttl_ms=1000)
        reply = self.run(call)
        assert (reply.first, reply.state) == (not had.terminal, stands)
        if not had.terminal:
            self._end(job_id, stands)
        if again:  # its answer was lost with the connection
            assert self.run(call) == scripts.Finished(False, stands)
        self._forget(name, job_id)
        self.filed.pop(job_id, None)

    @precondition(lambda self: any(self.held[name] for name in self.living))
    @rule(name=process, state=st.sampled_from([State.SUCCEEDED, State.FAILED]))
    def finish_all(self, name: str, state: State) -> None:
        mine = [tag for tag in dict.fromkeys(self.held[name]) if tag in self.jobs]
        if name not in self.living:
            return
        ends = [scripts.End(job_id, job_id, state, "", b'{"by":"worker"}') for job_id in mine]
        for job_id, reply in zip(mine, scripts.finish_all(self.client, ends, ttl_ms=1000), strict=True):
            job = self.jobs[job_id]
            stands = job.state if job.state.terminal else State.CANCELED if job.marked else state
            assert reply == scripts.Finished(not job.state.terminal, stands)
            if not job.state.terminal:
                self._end(job_id, stands)
            self._forget(name, job_id)
            self.filed.pop(job_id, None)

    @precondition(lambda self: any(self.held[name] for name in self.living))
    @rule(name=process)
    def bury(self, name: str) -> None:
        tag = next((tag for tag in self.held[name] if tag in self.plain), None)
        if name in self.living and tag is not None:
            before, filed = self.client.xlen(keys.DEAD), tag in self.filed
            assert self.run(scripts.bury(tag, "rejected")) is filed
            assert not self.run(scripts.bury(tag, "rejected"))
            assert self.client.xlen(keys.DEAD) == before + filed
            self._forget(name, tag)
            if filed:
                del self.filed[tag]
                self.adopted.add(tag)  # nobody waits for it any more

    @precondition(lambda self: any(self.held[name] for name in self.living))
    @rule(name=process)
    def give_back(self, name: str) -> None:
        mine = list(dict.fromkeys(self.held[name]))
        if name in self.living and mine:
            back = self.run(scripts.give_back(mine, process=name))
            self._went_back(self._filed_of(name, mine), back)
            for tag in back:
                if tag in self.jobs:
                    self.jobs[tag].runner = ""
            self.held[name] = []

    @rule(name=process)
    def beat(self, name: str) -> None:
        if name in self.living:
            call = scripts.renew(self.held[name], process=name, sign=b"{}", sign_ms=HOUR_MS)
            lost = self.run(call)
            assert lost == [tag for tag in self.held[name] if self.filed.get(tag) != name]
            for tag in lost:
                self._forget(name, tag)

    @precondition(lambda self: any(self.held[name] for name in self.living))
    @rule(name=process, n=anything)
    def pause(self, name: str, n: int) -> None:
        """It lives, but has not renewed for a lease, and does not know yet."""
        mine = self._filed_of(name, self.held[name])
        if mine:
            self.client.zadd(keys.LEASES, {mine[n % len(mine)]: 1})

    @rule(name=process)
    def break_down(self, name: str) -> None:
        """The device is lost: the sign of life goes, then what it held goes back as crashed."""
        if name in self.living:
            self._vanish(name)
            mine = self.held[name]
            back = self.run(scripts.give_back_crashed(mine, process=name))
            self._went_back(self._filed_of(name, mine), back)
            self.held[name] = []

    @rule(name=process)
    def die(self, name: str) -> None:
        """kill -9 and, at once, the end of its leases; another process of that name takes over later."""
        if name in self.living:
            self._vanish(name)
            for tag in self._filed_of(name, list(self.filed)):
                self.client.zadd(keys.LEASES, {tag: 1})
            self.held[name] = []

    @rule(name=process)
    def live(self, name: str) -> None:
        self.living.add(name)
        self.run(scripts.renew((), process=name, sign=b"{}", sign_ms=HOUR_MS))

    # What time does -------------------------------------------------------------------------------------

    @rule()
    def look(self) -> None:
        """The leases that ran out, and what the signs of life do not know."""
        long_ago = self.client.time()[0] * 1000 - HEARTBEAT_MS
        expired = [tag.decode() for tag in self.client.zrangebyscore(keys.LEASES, 0, long_ago)]
        asked = self.client.exists(keys.BEAT)
        back = self.run(scripts.restore_expired(lease_ms=LEASE_MS, heartbeat_ms=HEARTBEAT_MS))
        self._start_due()
        if asked:
            self._went_back(expired, back)
        else:
            assert not back
            assert not self.client.zrangebyscore(keys.LEASES, 0, long_ago), "after an outage all leases begin anew"

    @precondition(lambda self: self.client.zcard(keys.LEASES))
    @rule()
    def redis_was_away(self) -> None:
        self.client.delete(keys.BEAT)

    @precondition(lambda self: any(job.delayed for job in self.jobs.values()))
    @rule(n=anything)
    def the_start_of_one_comes(self, n: int) -> None:
        waiting = [job_id for job_id, job in self.jobs.items() if job.delayed]
        self.client.zadd(keys.DUE, {waiting[n % len(waiting)]: 1})

    def _start_due(self) -> None:
        left = {job_id.decode() for job_id in self.client.zrange(keys.DUE, 0, -1)}
        assert not self.client.zrangebyscore(keys.DUE, 0, 1)
        for job_id, job in self.jobs.items():
            job.delayed &= job_id in left

    @rule()
    def sweep(self) -> None:
        overdue = {job_id for job_id, job in self.jobs.items() if job.due and not job.state.terminal}
        swept = self.run(scripts.sweep(QUEUES))
        self._start_due()
        assert set(swept.ended) == overdue
        for job_id in swept.ended:
            self._end(job_id, State.CANCELED if self.jobs[job_id].marked else State.FAILED)

    @precondition(lambda self: len(self.jobs) > 5)
    @rule(n=anything)
    def lose_a_record(self, n: int) -> None:
        """As if no API had swept until the record was past its TTL, or by hand; then a sweep."""
        job_id, job = self._pick(n)
        if not job.state.terminal:
            self.client.zadd(keys.DEADLINES, {job_id: 1})
            self.client.delete(keys.JOB + job_id, keys.payload_key(job_id, 0))
            self.client.lrem(job.lane, 0, job.raw)
            self.client.hdel(keys.DELAYED, job_id)
            self.client.zrem(keys.DUE, job_id)
            self.client.hdel(keys.UNACKED, job_id)  # its lease and its holder stay, strays
            del self.jobs[job_id]
            self.filed.pop(job_id, None)
            for name in PROCESSES:
                self._forget(name, job_id)
            self.sweep()

    # What must be true ----------------------------------------------------------------------------------

    @invariant()
    def each_message_is_in_one_place(self) -> None:
        queued = Counter(raw for name in self._places() for raw in self.client.lrange(name, 0, -1))
        for job in self.jobs.values():
            if self.client.exists(job.lane) and job.lane != job.list_name:
                assert self.client.zscore(keys.TURNS + job.list_name, job.owner) is not None, "a lane has its turn"
        unacked = {tag.decode(): held for tag, held in self.client.hgetall(keys.UNACKED).items()}
        assert unacked.keys() == {tag.decode() for tag in self.client.zrange(keys.LEASES, 0, -1)} == self.filed.keys()
        assert {k.decode(): v.decode() for k, v in self.client.hgetall(keys.HOLDERS).items()} == self.filed
        delayed = {job_id.decode(): kept for job_id, kept in self.client.hgetall(keys.DELAYED).items()}
        assert delayed.keys() == {job_id.decode() for job_id in self.client.zrange(keys.DUE, 0, -1)}
        assert delayed.keys() == {job_id for job_id, job in self.jobs.items() if job.delayed}
        for job_id, job in self.jobs.items():
            places = queued[job.raw] + (job_id in unacked) + (job_id in delayed)
            assert places <= 1
            assert job.state.terminal or places == 1, "what has not ended is in a list or filed"
            assert job.state is not State.RUNNING or job_id in unacked
            if job_id in unacked:
                assert unacked[job_id] == job.list_name.encode() + b"\n" + job.raw
        for tag, raw in self.plain.items():
            places = queued[raw] + (tag in unacked)
            assert places <= 1 if tag in self.adopted else places == 1
        newer = sum(self.client.llen(f"{queue}{mark}") for queue in QUEUES.values() for mark in ("", MARK))
        assert newer >= self.parked, "what is newer than we know stays for others"

    @invariant()
    def the_record_is_what_the_model_says(self) -> None:
        for job_id, job in self.jobs.items():
            record = {k.decode(): v.decode() for k, v in self.client.hgetall(keys.JOB + job_id).items()}
            assert (record["state"], int(record["attempt"])) == (job.state, job.attempt)
            assert ("suspect" in record, int(record.get("crashes", 0))) == (job.suspect, job.crashes)
            assert (self.client.zscore(keys.DEADLINES, job_id) is None) == job.state.terminal
            outcome = self.client.get(keys.OUTCOME + job_id)
            assert (outcome is not None) == job.state.terminal
            if outcome is not None:
                assert self.outcomes.setdefault(job_id, outcome) == outcome, "an outcome never changes"

    @invariant()
    def every_key_lives_as_long_as_it_should(self) -> None:
        for job_id, job in self.jobs.items():
            ttl, record = self.client.pttl(keys.JOB + job_id), self.client.hgetall(keys.JOB + job_id)
            if job.state.terminal:
                assert TTL_MS - 60_000 < ttl <= TTL_MS
                assert abs(self.client.pttl(keys.OUTCOME + job_id) - ttl) < 1000
            else:
                assert (b"delayed" in record) == job.delayed
                ends = int(self.client.pexpiretime(keys.JOB + job_id))
                assert ends == int(record[b"deadline_at"]) + TTL_MS
            if job.key:
                assert abs(self.client.pttl(keys.IDEMPOTENCY + job.key) - ttl) < 1000
            kept = self.client.exists(keys.payload_key(job_id, 0))
            assert kept <= (not job.state.terminal or job.state is State.FAILED), "nobody needs it any more"
        for key in self.client.scan_iter(count=1000):
            assert self.client.ttl(key) != -1 or keys.NO_TTL.match(key.decode()), key

    @invariant()
    def counters_equal_what_is_there(self) -> None:
        for ref in REFS:
            counters = {k.decode(): float(v) for k, v in self.client.hgetall(keys.COUNTERS + ref).items()}
            jobs = [job for job in self.jobs.values() if job.ref == ref]
            assert counters.get("delayed", 0) == sum(job.delayed for job in jobs)
            for state in (State.QUEUED, State.RUNNING):
                counted = sum(job.state is state and not job.delayed for job in jobs)
                assert counters.get(state.value, 0) == counted, state
            assert counters.get("bytes", 0) == SIZE * sum(not job.state.terminal for job in jobs)
            owned = {k.decode(): int(v) for k, v in self.client.hgetall(keys.OWNED + ref).items()}
            alive = Counter(job.owner for job in jobs if not job.state.terminal and job.owner != keys.ANONYMOUS)
            assert owned == dict(alive) | {f"{name}:bytes": SIZE * count for name, count in alive.items()}
            for state in (State.SUCCEEDED, State.FAILED, State.CANCELED):
                assert counters.get(state.value, 0) == self.ended[ref, state]

    @invariant()
    def what_a_key_has_under_way_is_counted(self) -> None:
        counted = {k.decode(): int(v) for k, v in self.client.hgetall(keys.ACTIVE).items()}
        assert counted == {name: count for name in OWNERS[1:] if (count := self._active(name))}

    # Helpers --------------------------------------------------------------------------------------------

    def _waits(self) -> bool:
        return any(self.client.llen(name) for name in self._places())

    def _places(self) -> list[str]:
        return [keys.lane(name, owner) for name in LISTS for owner in OWNERS]

    def _active(self, owner: str) -> int:
        return sum(job.owner == owner and not job.state.terminal for job in self.jobs.values())

    def _has_share(self, owner: str, mine: list[Model]) -> bool:
        """Of this version's jobs: less than each of the keys', and of those without a key, would have."""
        owners = {job.owner for job in mine} - {keys.ANONYMOUS} | {owner}
        own = sum(job.owner == owner for job in mine)
        return owner != keys.ANONYMOUS and (own + 1) * (len(owners) + 1) <= MAX_JOBS

    def _new_id(self) -> str:
        self.made += 1
        return f"job-{self.made}"

    def _pick(self, n: int) -> tuple[str, Model]:
        job_id = list(self.jobs)[n % len(self.jobs)]
        return job_id, self.jobs[job_id]

    def _pass_deadline(self, due: bool) -> None:
        """A millisecond of Redis TIME."""
        begun = self.client.time() if due else (0, 0)
        while due and self.client.time() < (begun[0], begun[1] + 2000):
            pass

    def _end(self, job_id: str, state: State) -> None:
        job = self.jobs[job_id]
        job.state, job.runner, job.delayed = state, "", False
        self.ended[job.ref, state] += 1

    def _vanish(self, name: str) -> None:
        self.living.discard(name)
        self.client.delete(keys.WORKER + name)

    def _filed_of(self, name: str, tags: list[str]) -> list[str]:
        return [tag for tag in tags if self.filed.get(tag) == name]

    def _went_back(self, tags: list[str], back: list[str]) -> None:
        """Of these filed tags, those came `back` whose jobs have not ended; of them, what was canceled ends now."""
        expected = set()
        for tag in tags:
            del self.filed[tag]
            job = self.jobs.get(tag)
            if job is None or not (job.state.terminal or job.marked):
                expected.add(tag)
            elif job.marked and not job.state.terminal:
                self._end(tag, State.CANCELED)
            if job is not None and tag in expected:
                job.state = State.QUEUED
        assert set(back) == expected

    def _forget(self, name: str, tag: str) -> None:
        self.held[name] = [other for other in self.held[name] if other != tag]


def message(job_id: str, *, ours: bool = True, version: int = messages.VERSION) -> bytes:
    raw = messages.build(job_id, queue="q", priority=keys.NORMAL, model="m", version="v", input=[])
    message = orjson.loads(raw)
    if ours:
        message["headers"]["ml"] = version
    else:
        del message["headers"]["ml"]
    return orjson.dumps(message)


@short_and_long
@pytest.mark.usefixtures("store")
def test_any_order_keeps_the_promises(server: EmbeddedServer, times: int) -> None:
    run_machine(Machine, server, examples=15, times=times)
