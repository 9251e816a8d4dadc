"""Batches under a Hypothesis state machine: any order of what callers, workers and time may do to a few of them.

How many lines a step begins is the scripts' business, and read from the server; what must be true of it is not: every
line is in one place, in order, and ends once; the counts are those of the lines; no more lines are in the queue than a
batch may have there; where there is room, some are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from local.embedded import EmbeddedServer
from shared import keys, messages, scripts
from shared import scripts_batches as batches
from shared.batches import batch_view
from shared.types import State
from tests.machines import run_machine, short_and_long

REF = "echo@1"
QUEUE = keys.queue_name("echo", "1")
LISTS = [keys.queue_list(QUEUE, step) for step in keys.PRIORITIES]
LOW, SIZE, TTL_MS, HOUR_MS, MAX_JOBS, CONCURRENT = keys.LOW, 10, 7_200_000, 3_600_000, 8, 5
LEASE_MS = 600_000
OWNERS = (keys.ANONYMOUS, "key_a")

anything = st.integers(0, 1_000_000)
rarely = st.sampled_from([False, False, False, True])
owner_of = st.sampled_from(OWNERS)
# Of a slice: by line whether it does not fit, fits, or fits and has a payload.
slices = st.lists(st.sampled_from(["no", "fits", "fits", "payload"]), min_size=1, max_size=5)


@dataclass
class Model:
    owner: str
    window: int
    key: str = ""
    sealed: bool = False
    lines: list[str] = field(default_factory=list)  # as in a slice
    state: dict[int, State] = field(default_factory=dict)  # of the lines that have begun
    marked: set[int] = field(default_factory=set)  # canceled while they ran
    cut: str = ""  # why no further line begins
    canceled: bool = False  # before it had ended; its lines may have been cut by the deadline before that
    due: bool = False

    def waiting(self) -> list[int]:
        """Which have not begun."""
        return [n for n, kind in enumerate(self.lines) if kind != "no" and n not in self.state]

    def open(self) -> list[int]:
        return [n for n, state in self.state.items() if not state.terminal]

    def counts(self) -> dict[str, int]:
        found = Counter(str(state) for state in self.state.values())
        found["failed"] += self.lines.count("no")
        if self.cut:
            found["canceled" if self.cut == "canceled" else "failed"] += len(self.waiting())
        else:
            found["queued"] += len(self.waiting())
        return {"total": len(self.lines)} | {state.value: found[state.value] for state in State}

    @property
    def ended(self) -> bool:
        counts = self.counts()
        return self.sealed and not counts["queued"] and not counts["running"]


class Machine(RuleBasedStateMachine):
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.batches: dict[str, Model] = {}
        self.gone: set[str] = set()
        self.lone: dict[str, tuple[str, State]] = {}
        self.made = 0
        self.held: list[str] = []
        self.outcomes: dict[str, bytes] = {}
        self.begin_worker()

    def run(self, call: scripts.Call[Any]) -> Any:
        return scripts.one(scripts.run(self.client, [call]))

    def begin_worker(self) -> None:
        self.run(scripts.renew((), process="p", sign=b"{}", sign_ms=HOUR_MS))
        self.run(scripts.restore_expired(lease_ms=LEASE_MS, heartbeat_ms=LEASE_MS))

    # What callers do ------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.batches) < 6)
    @rule(owner=owner_of, window=st.sampled_from([1, 3, 6]), kinds=slices)
    def send_whole(self, owner: str, window: int, kinds: list[str]) -> None:
        """Most are; what may happen in between has rules of its own."""
        self.open_one(owner, window, "")
        place = len(self._sending()) - 1
        self.append(place, kinds, False)
        self._seal_it(list(self.batches)[-1], again=False)

    @precondition(lambda self: len(self._sending()) < 2)
    @rule(owner=owner_of, window=st.sampled_from([1, 3, 6]), key=st.sampled_from(["", "", "k"]))
    def open_one(self, owner: str, window: int, key: str) -> None:
        self.made += 1
        name = f"batch_{self.made:032x}"
        share = "" if owner == keys.ANONYMOUS else owner
        made_of = messages.template(queue=QUEUE, priority=LOW, model="echo", version="1", owner=share)
        line = {"batch": name, "model": "echo", "version": "1", "priority": LOW, "owner": owner, "dead_ttl_ms": 1000}
        fields: dict[str, str | int] = {
            "model": "echo",
            "version": "1",
            "priority": LOW,
            "list": keys.queue_list(QUEUE, LOW),
            "owner": owner,
            "window": window,
            "max_jobs": MAX_JOBS,
            "max_bytes": 1_000_000,
            "concurrent": CONCURRENT if share else 0,
            "model_concurrent": 0,
            "refs": f"{REF}\n",
            "line_fields": orjson.dumps([str(part) for item in line.items() for part in item]).decode(),
        }
        self.run(batches.open_batch(name, ref=REF, lease_ms=LEASE_MS, made_of=made_of, fields=fields))
        self.batches[name] = Model(owner, window, key)

    @precondition(lambda self: self._sending())
    @rule(n=anything, kinds=slices, again=st.booleans())
    def append(self, n: int, kinds: list[str], again: bool) -> None:
        name, model = self._pick(self._sending(), n)
        first = len(model.lines)
        taken, payloads = [], 0
        for number, kind in enumerate(kinds, first):
            if kind == "payload":
                self.client.set(keys.payload_key(keys.line_id(name, number), 0), b"x", px=4 * HOUR_MS)
                payloads += 1
            if kind != "no":
                text = messages.encode_input(b"%d" % number)
                pointers = b'["/a"]' if kind == "payload" else b""
                taken.append(batches.Line(number, SIZE, 1, pointers, text))
        refused = {number: b"{}" for number, kind in enumerate(kinds, first) if kind == "no"}
        call = batches.append_lines(
            name, first=first, lines=taken, refused=refused, payloads=payloads, lease_ms=LEASE_MS, life_ms=4 * HOUR_MS
        )
        assert self.run(call) is True
        if again:  # its answer was lost with the connection
            assert self.run(call) is True
        model.lines += kinds

    @precondition(lambda self: self._sending())
    @rule(n=anything, really=rarely)
    def break_off(self, n: int, really: bool) -> None:
        if not really:
            return
        name, model = self._pick(self._sending(), n)
        while self.run(batches.drop_batch(name, ref=REF, limit=2)):
            pass
        self._drop(name)
        assert not self.run(self._seal(name, model)).created_at, "too late"

    @precondition(lambda self: self._sending())
    @rule(n=anything, really=rarely)
    def the_api_dies_while_it_comes(self, n: int, really: bool) -> None:
        if not really:
            return
        name, _ = self._pick(self._sending(), n)
        self.client.zadd(keys.BATCHES, {f"{name} {REF}": 1})
        self.step(2)
        self._drop(name)

    @precondition(lambda self: [name for name in self._sending() if self.batches[name].lines])
    @rule(n=anything, again=st.booleans())
    def seal(self, n: int, again: bool) -> None:
        name, _ = self._pick([name for name in self._sending() if self.batches[name].lines], n)
        self._seal_it(name, again=again)

    def _seal_it(self, name: str, *, again: bool) -> None:
        model = self.batches[name]
        first = next((other for other, seen in self.batches.items() if seen.key and seen.sealed), None)
        before = self._queue()
        reply = self.run(self._seal(name, model))
        if model.key and first:
            assert (reply.status, reply.batch_id) == ("existing", first)
            return
        assert (reply.status, reply.batch_id) == ("accepted", name)
        if again:
            assert self.run(self._seal(name, model)) == reply
        model.sealed = True
        self._sync(before)

    def _seal(self, name: str, model: Model) -> scripts.Call[batches.Sealed]:
        return batches.seal_batch(
            name,
            total=len(model.lines),
            deadline_ms=HOUR_MS,
            ttl_ms=TTL_MS,
            owner=model.owner,
            etag="",
            idempotency=model.key,
            fingerprint="f",
        )

    @rule(owner=owner_of)
    def submit_a_lone_job(self, owner: str) -> None:
        self.made += 1
        job_id, share = f"job-{self.made}", "" if owner == keys.ANONYMOUS else owner
        raw = messages.build(job_id, queue=QUEUE, priority=keys.NORMAL, model="echo", version="1", input=1)
        reply = self.run(
            scripts.submit(
                job_id,
                list_name=keys.queue_list(QUEUE, keys.NORMAL),
                raw=raw,
                ref=REF,
                deadline_ms=HOUR_MS,
                ttl_ms=TTL_MS,
                size=SIZE,
                max_jobs=MAX_JOBS,
                max_bytes=1_000_000,
                share=scripts.Share(share, concurrent=CONCURRENT if share else 0),
                fields={"model": "echo", "version": "1", "owner": owner, "payloads": 0},
            )
        )
        if reply.status == "accepted":
            self.lone[job_id] = (owner, State.QUEUED)

    @precondition(lambda self: self._sealed())
    @rule(n=anything)
    def cancel_batch(self, n: int) -> None:
        name, model = self._pick(self._sealed(), n)
        state = self._view(name).state
        cut = 0 if model.cut else len(model.waiting())
        assert self.run(batches.cancel_batch(name)) == (state, 0 if state.terminal else cut)
        if not state.terminal:
            model.cut, model.canceled = model.cut or "canceled", True
            assert self._view(name).state == "canceled"
        self._sync(None)

    @precondition(lambda self: self._open())
    @rule(n=anything)
    def cancel_a_line(self, n: int) -> None:
        name, number = self._open()[n % len(self._open())]
        model, before = self.batches[name], self._queue()
        was = self.run(scripts.cancel(keys.line_id(name, number)))
        assert was is model.state[number]
        if was is State.QUEUED:
            model.state[number] = State.CANCELED
        else:
            model.marked.add(number)
        self._sync(before)

    # What workers do ------------------------------------------------------------------------------------

    @rule()
    def work(self) -> None:
        """As a worker that has room."""
        self.drain([4, 4, 4])
        if self.held:
            self.claim()

    @rule(rooms=st.lists(st.integers(0, 4), min_size=3, max_size=3))
    def drain(self, rooms: list[int]) -> None:
        for _, raw in self.run(scripts.drain(LISTS, rooms, process="p")).messages:
            message, kwargs = messages.unpack(raw)
            job_id = message["headers"]["id"]
            assert message["properties"]["delivery_tag"] == job_id
            line = keys.parse_line(job_id)
            if line:
                kind = self.batches[line[0]].lines[line[1]]
                assert kwargs == {"model": "echo", "version": "1", "input": line[1], "parameters": {}}
                assert message["headers"]["ml_payloads"] == (["/a"] if kind == "payload" else [])
            self.held.append(job_id)

    @precondition(lambda self: self.held)
    @rule()
    def claim(self) -> None:
        before = self._queue()
        call = scripts.claim(self.held, process="p", worker="p", max_attempts=3)
        for job_id, verdict in zip(list(self.held), self.run(call), strict=True):
            state = self._state(job_id)
            if job_id in self.gone:
                assert verdict.status == "missing"
            elif state.terminal:
                assert verdict.status == "ended"
            elif self._due(job_id):
                assert (verdict.status, verdict.state) == ("ended", State.FAILED)
                self._set(job_id, State.FAILED)
            elif self._marked(job_id):
                assert (verdict.status, verdict.state) == ("ended", State.CANCELED)
                self._set(job_id, State.CANCELED)
            else:
                assert verdict.status == "run"
                self._set(job_id, State.RUNNING)
                continue
            self.run(scripts.ack([job_id], process="p"))
            self.held.remove(job_id)
        self._sync(before)

    @precondition(lambda self: self.held)
    @rule(n=anything, state=st.sampled_from([State.SUCCEEDED, State.FAILED]), again=st.booleans())
    def finish(self, n: int, state: State, again: bool) -> None:
        job_id, before = self.held[n % len(self.held)], self._queue()
        if job_id in self.gone:
            return
        had = self._state(job_id)
        call = scripts.finish(job_id, tag=job_id, state=state, code="", meta=b"{}", ttl_ms=1000)
        reply = self.run(call)
        assert reply.first is not had.terminal
        if reply.first:
            self._set(job_id, State.CANCELED if self._marked(job_id) else state)
        if again:
            assert not self.run(call).first
        self.held.remove(job_id)
        self._sync(before)

    @precondition(lambda self: self.held)
    @rule(die=st.booleans())
    def give_back(self, die: bool) -> None:
        """Or kill -9, and the end of its leases; another of its name takes over."""
        before = self._queue()
        if die:
            for tag in self.held:
                self.client.zadd(keys.LEASES, {tag: 1})
            self.run(scripts.restore_expired(lease_ms=LEASE_MS, heartbeat_ms=LEASE_MS))
        else:
            self.run(scripts.give_back(self.held, process="p"))
        for job_id in self.held:
            if job_id not in self.gone and not self._state(job_id).terminal:
                self._set(job_id, State.CANCELED if self._marked(job_id) else State.QUEUED)
        self.held = []
        self._sync(before)

    # What time does -------------------------------------------------------------------------------------

    @rule(limit=st.sampled_from([1, 3, 100]))
    def step(self, limit: int) -> None:
        """Until nothing is left to do now."""
        before = self._queue()
        for member in self.client.zrange(keys.BATCHES, 0, -1):
            if member.decode().partition(" ")[0] in self._sealed():
                self.client.zadd(keys.BATCHES, {member: 1})
        while self.run(batches.step_batches(limit=limit)) >= limit:
            pass
        for name in self._sealed():
            model = self.batches[name]
            if model.due:
                model.cut = model.cut or "deadline_exceeded"
            if self._view(name).state == "canceled":
                for number in model.open():
                    if model.state[number] is State.QUEUED:
                        model.state[number] = State.CANCELED
                    else:
                        model.marked.add(number)
        self._sync(before)
        for name in self._sealed():
            model = self.batches[name]
            if model.waiting() and not model.cut and not model.open():
                full = self._queue() >= MAX_JOBS
                mine = sum(owner == model.owner and not state.terminal for owner, state in self.lone.values())
                mine += sum(len(other.open()) for other in self.batches.values() if other.owner == model.owner)
                assert full or (model.owner != keys.ANONYMOUS and mine >= CONCURRENT), "a line could have begun"

    @precondition(lambda self: self._sealed())
    @rule(n=anything)
    def the_deadline_passes(self, n: int) -> None:
        name, model = self._pick(self._sealed(), n)
        if self._view(name).finished_at:
            return
        model.due = True
        at = self.client.time()[0] * 1000 - 1000
        self.client.hset(keys.BATCH + name, "deadline_at", at)
        for number in model.open():
            job_id = keys.line_id(name, number)
            self.client.hset(keys.JOB + job_id, "deadline_at", at)
            self.client.zadd(keys.DEADLINES, {job_id: at})

    @rule()
    def sweep(self) -> None:
        before = self._queue()
        swept = self.run(scripts.sweep({REF: QUEUE})).ended
        for job_id in swept:
            self._set(job_id, State.CANCELED if self._marked(job_id) else State.FAILED)
        for model in self.batches.values():
            assert not (model.due and model.open()), "the deadline ends what has begun"
        self._sync(before)

    @precondition(lambda self: self._open())
    @rule(n=anything)
    def lose_a_record(self, n: int) -> None:
        """By a hand in the database; then a step and a sweep."""
        name, number = self._open()[n % len(self._open())]
        job_id = keys.line_id(name, number)
        if self.batches[name].state[number] is not State.QUEUED or job_id in self.held:
            return
        self.client.delete(keys.JOB + job_id)
        for key, raw in self._messages():
            if orjson.loads(raw)["headers"]["id"] == job_id:
                self.client.lrem(key, 0, raw)
        self.client.zadd(keys.DEADLINES, {job_id: 1})
        self.gone.add(job_id)
        self.batches[name].state[number] = State.FAILED
        self.sweep()
        self.step(100)
        self.client.delete(keys.payload_key(job_id, 0))

    # What must be true ----------------------------------------------------------------------------------

    @invariant()
    def counts_are_those_of_the_lines(self) -> None:
        for name in self._sealed():
            model, seen = self.batches[name], self._view(name)
            assert seen.counts.model_dump() == model.counts()
            assert (seen.finished_at is not None) == model.ended
            if model.ended:
                assert seen.state == ("canceled" if model.canceled else "completed")
            else:
                assert seen.state != "completed"

    @invariant()
    def a_line_is_in_one_place(self) -> None:
        filed = {tag.decode() for tag in self.client.hkeys(keys.UNACKED)}
        queued = Counter(orjson.loads(raw)["headers"]["id"] for _, raw in self._messages())
        ids = [keys.line_id(name, n) for name, model in self.batches.items() for n in range(len(model.lines))]
        states = self._all("hget", [(keys.JOB + job_id, "state") for job_id in ids])
        outcomes = self._all("get", [(keys.OUTCOME + job_id,) for job_id in ids])
        for name, model in self.batches.items():
            left = [int(entry.partition(b"\n")[0]) for entry in self.client.lrange(keys.LINES + name, 0, -1)]
            waiting = model.waiting()
            assert left[::-1] == waiting or (model.cut and set(left) <= set(waiting))
            if model.sealed:
                opened = {int(line) for line in self.client.smembers(keys.OPEN + name)}
                assert opened == set(model.open())
            for number in range(len(model.lines)):
                job_id = keys.line_id(name, number)
                state = model.state.get(number)
                if state is None or job_id in self.gone:
                    assert states[keys.JOB + job_id] is None
                    continue
                places = queued[job_id] + (job_id in filed)
                assert places <= 1
                assert state.terminal or places == 1
                assert states[keys.JOB + job_id].decode() == state
                outcome = outcomes[keys.OUTCOME + job_id]
                assert (outcome is not None) == state.terminal
                if outcome is not None:
                    assert self.outcomes.setdefault(job_id, outcome) == outcome, "an outcome never changes"

    @invariant()
    def everything_lives_as_long_as_the_batch(self) -> None:
        found = [(key.decode(),) for key in self.client.scan_iter(count=10_000)]
        ends = self._all("pexpiretime", found)
        for name in self._sealed():
            model = self.batches[name]
            expires = int(self.client.hget(keys.BATCH + name, "expires_at") or 0)
            assert ends[keys.BATCH + name] == expires
            for number, state in model.state.items():
                job_id = keys.line_id(name, number)
                lives = ends.get(keys.OUTCOME + job_id)
                assert not state.terminal or model.due or job_id in self.gone or lives == expires
                kept = keys.payload_key(job_id, 0) in ends
                assert not kept or not state.terminal or state is State.FAILED
            listed = self.client.zscore(keys.BATCHES, f"{name} {REF}") is not None
            assert listed != (model.ended and keys.LINES + name not in ends)
            assert self.client.sismember(keys.BATCHES_ON + REF, name) != model.ended
        for key, at in ends.items():
            assert at != -1 or keys.NO_TTL.match(key), key

    @invariant()
    def the_counters_of_the_queue_are_right(self) -> None:
        counters = {k.decode(): float(v) for k, v in self.client.hgetall(keys.COUNTERS + REF).items()}
        states = [state for model in self.batches.values() for state in model.state.values()]
        states += [state for _, state in self.lone.values()]
        for state in (State.QUEUED, State.RUNNING):
            assert counters.get(state.value, 0) == states.count(state)
        assert counters.get("bytes", 0) == SIZE * (states.count(State.QUEUED) + states.count(State.RUNNING))

    # Helpers --------------------------------------------------------------------------------------------

    def _sync(self, before: int | None) -> None:
        """Which lines have begun, `before`: how many were in the queue; None: none may have."""
        for name in self._sealed():
            model = self.batches[name]
            for line in sorted(int(line) for line in self.client.smembers(keys.OPEN + name)):
                if line not in model.state:
                    assert before is not None
                    assert not model.cut
                    assert not model.due
                    assert line == model.waiting()[0], "in order"
                    model.state[line] = State.QUEUED
                    others = sum(1 for other in self._sealed() if not self.batches[other].ended)
                    assert len(model.open()) <= min(model.window, max(1, MAX_JOBS // 2 // others))
                    assert model.owner != keys.ANONYMOUS or self._queue() <= MAX_JOBS

    def _all(self, command: str, calls: list[tuple[str, ...]]) -> dict[str, Any]:
        """The replies by key, in one round trip."""
        pipe = self.client.pipeline(transaction=False)
        for call in calls:
            getattr(pipe, command)(*call)
        return dict(zip((call[0] for call in calls), pipe.execute(), strict=True))

    def _messages(self) -> list[tuple[str, bytes]]:
        """All that wait in the queue's lists, with the list."""
        names = [(keys.lane(name, owner), "0", "-1") for name in LISTS for owner in OWNERS]
        return [(name, raw) for name, raws in self._all("lrange", names).items() for raw in raws]

    def _queue(self) -> int:
        """How many jobs have not ended."""
        lone = sum(not state.terminal for _, state in self.lone.values())
        return lone + sum(len(model.open()) for model in self.batches.values())

    def _view(self, name: str) -> Any:
        return batch_view(name, self.run(batches.look_at_batch(name)))

    def _sending(self) -> list[str]:
        return [name for name, model in self.batches.items() if not model.sealed]

    def _sealed(self) -> list[str]:
        return [name for name, model in self.batches.items() if model.sealed]

    def _open(self) -> list[tuple[str, int]]:
        return [(name, number) for name, model in self.batches.items() for number in model.open()]

    def _pick(self, names: list[str], n: int) -> tuple[str, Model]:
        name = names[n % len(names)]
        return name, self.batches[name]

    def _drop(self, name: str) -> None:
        del self.batches[name]
        left = list(self.client.scan_iter(f"*{name}*"))
        assert left == [], "nothing is left behind"
        assert self.client.zscore(keys.BATCHES, f"{name} {REF}") is None

    def _state(self, job_id: str) -> State:
        line = keys.parse_line(job_id)
        return self.batches[line[0]].state[line[1]] if line else self.lone[job_id][1]

    def _set(self, job_id: str, state: State) -> None:
        line = keys.parse_line(job_id)
        if line:
            self.batches[line[0]].state[line[1]] = state
        else:
            self.lone[job_id] = (self.lone[job_id][0], state)

    def _marked(self, job_id: str) -> bool:
        line = keys.parse_line(job_id)
        return line is not None and line[1] in self.batches[line[0]].marked

    def _due(self, job_id: str) -> bool:
        line = keys.parse_line(job_id)
        return line is not None and self.batches[line[0]].due


@short_and_long
@pytest.mark.usefixtures("store")
def test_any_order_keeps_the_promises(server: EmbeddedServer, times: int) -> None:
    run_machine(Machine, server, examples=15, times=times)


def test_a_lone_line_that_waits_for_room_keeps_its_time_to_live(server: EmbeddedServer, store: redis.Redis) -> None:
    Machine.client = store
    machine = Machine()
    for _ in range(MAX_JOBS):
        machine.submit_a_lone_job(keys.ANONYMOUS)
    machine.send_whole(keys.ANONYMOUS, 3, ["fits"])
    (name,) = machine.batches
    assert machine.batches[name].waiting() == [0]
    assert 0 < store.pttl(keys.LINES + name) <= HOUR_MS + TTL_MS
