"""The scripts under a Hypothesis state machine: any order of what API, workers and time may do to a few jobs.

After every step: each job is in exactly the place its state says, its message is in a list or filed as unacked (or
its job has ended), there is one outcome, and the counters equal what is there.
"""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from local.server import EmbeddedServer
from shared import keys, messages, scripts
from shared.types import State

REF = "echo@1"
LIST = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL)
PROCESSES = ("p1", "p2")
MAX_ATTEMPTS = 2

process = st.sampled_from(PROCESSES)
anything = st.integers(0, 1_000_000)


class Machine(RuleBasedStateMachine):
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.jobs: list[str] = []
        self.held: dict[str, list[str]] = {name: [] for name in PROCESSES}
        self.outcomes: dict[str, bytes] = {}
        self.living = set(PROCESSES)
        for name in PROCESSES:
            self.client.set(keys.WORKER + name, "{}")

    def run(self, call: scripts.Call[Any]) -> Any:
        return scripts.one(scripts.run(self.client, [call]))

    @rule(due=st.booleans(), key=st.sampled_from(["", "k1", "k2"]))
    def submit(self, due: bool, key: str) -> None:
        job_id = f"job-{len(self.jobs)}"
        raw = messages.build(job_id, queue="q", priority=keys.NORMAL, model="echo", version="1", input=[])
        reply = self.run(
            scripts.submit(
                job_id,
                list_name=LIST,
                raw=raw,
                ref=REF,
                deadline_ms=1 if due else 3_600_000,
                ttl_ms=3_600_000,
                size=10,
                max_jobs=6,
                max_bytes=1_000_000,
                idempotency=key,
                fingerprint="f",
                fields={"model": "echo", "version": "1"},
            )
        )
        waiting = [job for job in self.jobs if not self.state(job).terminal]
        if reply.status == "accepted":
            assert len(waiting) < 6
            self.jobs.append(job_id)
        elif reply.status == "existing":
            assert key
            assert reply.job_id in self.jobs
        else:
            assert (reply.status, reply.jobs) == ("full", len(waiting))

    @rule(name=process, room=st.integers(1, 3))
    def drain(self, name: str, room: int) -> None:
        for _, raw in self.run(scripts.drain([LIST], [room])).messages:
            job_id = next(job for job in self.jobs if f'"delivery_tag":"{job}"'.encode() in raw)
            assert raw == messages.build(
                job_id, queue="q", priority=keys.NORMAL, model="echo", version="1", input=[]
            ), "the same bytes, however often it came back"
            self.held[name].append(job_id)

    @precondition(lambda self: any(self.held.values()))
    @rule(name=process, solo=st.booleans())
    def claim(self, name: str, solo: bool) -> None:
        mine = list(dict.fromkeys(self.held[name]))[: 1 if solo else None]
        if name not in self.living or not mine:
            return
        attempts = {job: int(self.record(job)["attempt"]) for job in mine}
        runners = {job: self.record(job).get("runner") for job in mine}
        call = scripts.claim(mine, process=name, worker=name, max_attempts=MAX_ATTEMPTS, solo=solo)
        for job, verdict in zip(mine, self.run(call), strict=True):
            if verdict.status == "run":
                again = runners[job] == name
                assert verdict.attempt == attempts[job] + (0 if again else 1)
                assert self.state(job) is State.RUNNING
            elif verdict.status == "suspect":
                assert not solo
            else:
                assert verdict.status == "ended"
                assert self.state(job).terminal
                self.client.hdel(keys.UNACKED, job)  # as the worker's ack does
                self.client.zrem(keys.LEASES, job)
                self.forget(job)

    @precondition(lambda self: any(self.held.values()))
    @rule(name=process, n=anything, state=st.sampled_from([State.SUCCEEDED, State.FAILED]))
    def finish(self, name: str, n: int, state: State) -> None:
        mine = self.held[name]
        if name not in self.living or not mine:
            return
        job = mine[n % len(mine)]
        had = self.state(job)
        marked = "canceled" in self.record(job)
        reply = self.run(scripts.finish(job, tag=job, state=state, code="", meta=b'{"by":"worker"}', ttl_ms=1000))
        assert reply.first is not had.terminal
        assert self.state(job) is (had if had.terminal else State.CANCELED if marked else state)
        self.forget(job)

    @precondition(lambda self: self.jobs)
    @rule(n=anything)
    def cancel(self, n: int) -> None:
        job = self.jobs[n % len(self.jobs)]
        before = self.state(job)
        assert self.run(scripts.cancel(job)) is before
        assert self.state(job) is (State.CANCELED if before is State.QUEUED else before)

    @rule(name=process)
    def die(self, name: str) -> None:
        """kill -9 and, at once, the end of its leases; another process of that name takes over later."""
        if name in self.living:
            self.living.discard(name)
            self.client.delete(keys.WORKER + name)
            for job in self.held[name]:
                if self.client.zscore(keys.LEASES, job) is not None:
                    self.client.zadd(keys.LEASES, {job: 1})
            self.held[name] = []

    @rule(name=process)
    def live(self, name: str) -> None:
        self.living.add(name)
        self.client.set(keys.WORKER + name, "{}")

    @rule()
    def restore(self) -> None:
        for job in self.run(scripts.restore_expired(lease_ms=60_000)):
            assert self.state(job) is State.QUEUED

    @precondition(lambda self: any(self.held.values()))
    @rule(name=process, suspects=st.booleans())
    def give_back(self, name: str, suspects: bool) -> None:
        mine = list(dict.fromkeys(self.held[name]))
        if name in self.living and mine:
            self.run(scripts.give_back_suspects(mine) if suspects else scripts.give_back(mine))
            self.held[name] = []

    @rule()
    def sweep(self) -> None:
        for job in self.run(scripts.sweep()):
            assert self.state(job) in (State.FAILED, State.CANCELED)

    @invariant()
    def each_job_is_where_its_state_says(self) -> None:
        queued = [raw.decode() for raw in self.client.lrange(LIST, 0, -1)]
        unacked = {tag.decode() for tag in self.client.hkeys(keys.UNACKED)}
        assert unacked == {tag.decode() for tag in self.client.zrange(keys.LEASES, 0, -1)}
        for job in self.jobs:
            places = sum(f'"delivery_tag":"{job}"' in raw for raw in queued) + (job in unacked)
            state = self.state(job)
            assert places <= 1
            assert state.terminal or places == 1, "what has not ended is in a list or filed"
            assert state is not State.RUNNING or job in unacked
            assert self.client.exists(keys.OUTCOME + job) == state.terminal
            assert (self.client.zscore(keys.DEADLINES, job) is None) == state.terminal
            assert self.client.pttl(keys.JOB + job) > 0

    @invariant()
    def an_outcome_never_changes(self) -> None:
        for job in self.jobs:
            outcome = self.client.get(keys.OUTCOME + job)
            if outcome is not None:
                assert self.outcomes.setdefault(job, outcome) == outcome

    @invariant()
    def counters_equal_what_is_there(self) -> None:
        counters = {name.decode(): int(value) for name, value in self.client.hgetall(keys.COUNTERS + REF).items()}
        states = [self.state(job) for job in self.jobs]
        for state in State:
            assert counters.get(state.value, 0) == states.count(state), state
        assert counters.get("bytes", 0) == 10 * sum(not state.terminal for state in states)

    def record(self, job: str) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.client.hgetall(keys.JOB + job).items()}

    def state(self, job: str) -> State:
        return State(self.client.hget(keys.JOB + job, "state").decode())

    def forget(self, job: str) -> None:
        for name in PROCESSES:
            self.held[name] = [other for other in self.held[name] if other != job]


@pytest.mark.usefixtures("store")
def test_any_order_keeps_the_promises(server: EmbeddedServer) -> None:
    Machine.client = redis.Redis.from_url(server.url)
    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    finally:
        Machine.client.flushall()
        Machine.client.close()


def _submit(store: redis.Redis, job_id: str, **options: Any) -> scripts.Submitted:
    raw = messages.build(job_id, queue="q", priority=keys.NORMAL, model="echo", version="1", input=[])
    defaults: dict[str, Any] = {
        "deadline_ms": 60_000,
        "ttl_ms": 60_000,
        "size": 10,
        "max_jobs": 100,
        "max_bytes": 1000,
        "fields": {"model": "echo", "version": "1"},
    }
    call = scripts.submit(job_id, list_name=LIST, raw=raw, ref=REF, **defaults | options)
    reply: scripts.Submitted = scripts.one(scripts.run(store, [call]))
    return reply


def test_crashes_count_only_alone_and_end_in_the_dead_letters(store: redis.Redis) -> None:
    _submit(store, "a")
    verdicts = []
    for number in range(5):
        scripts.run(store, [scripts.drain([LIST], [1])])
        solo = number > 0
        call = scripts.claim(["a"], process=f"gone-{number}", worker="w", max_attempts=3, solo=solo)
        verdicts.append(scripts.one(scripts.run(store, [call]))[0].status)
        if verdicts[-1] == "run":  # it dies, and its lease runs out
            store.zadd(keys.LEASES, {"a": 1})
            scripts.run(store, [scripts.restore_expired(lease_ms=1000)])
    assert verdicts == ["run", "run", "run", "run", "ended"], "one crash in company, three alone"
    assert store.hget(keys.JOB + "a", "code") == b"attempts_exhausted"
    ((_, letter),) = store.xrange(keys.DEAD)
    assert (letter[b"reason"], letter[b"id"], letter[b"list"]) == (b"attempts_exhausted", b"a", LIST.encode())
    assert b'"delivery_tag":"a"' in letter[b"raw"]


def test_a_crash_of_a_living_worker_is_none(store: redis.Redis) -> None:
    _submit(store, "a")
    store.set(keys.WORKER + "alive", "{}", ex=60)
    scripts.run(store, [scripts.drain([LIST], [1])])
    scripts.run(store, [scripts.claim(["a"], process="alive", worker="w", max_attempts=3)])
    store.zadd(keys.LEASES, {"a": 1})
    scripts.run(store, [scripts.restore_expired(lease_ms=1000), scripts.drain([LIST], [1])])
    call = scripts.claim(["a"], process="other", worker="w", max_attempts=3)
    assert scripts.one(scripts.run(store, [call]))[0].status == "run"


def test_what_cannot_be_parsed_is_kept_as_a_dead_letter(store: redis.Redis) -> None:
    for raw in (b"not json", b"[]", b'{"headers": {}}', b'{"properties": {"delivery_tag": 3}, "headers": {}}'):
        store.lpush(LIST, raw)
    _submit(store, "good")
    drained = scripts.one(scripts.run(store, [scripts.drain([LIST], [10])]))
    assert len(drained.messages) == 1
    assert drained.left == 0
    assert {letter[b"reason"] for _, letter in store.xrange(keys.DEAD)} == {b"unparsable"}
    assert store.xlen(keys.DEAD) == 4


def test_restored_messages_keep_their_order_and_go_first(store: redis.Redis) -> None:
    for job in "abcd":
        _submit(store, job)
    scripts.run(store, [scripts.drain([LIST], [2])])
    assert scripts.one(scripts.run(store, [scripts.give_back(["a", "b"])])) == ["b", "a"]
    drained = scripts.one(scripts.run(store, [scripts.drain([LIST], [9])]))
    assert [raw.split(b'"delivery_tag":"')[1][:1] for _, raw in drained.messages] == [b"a", b"b", b"c", b"d"]


def test_watchers_are_told_once_the_outcome_stands(store: redis.Redis) -> None:
    pubsub = store.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe("ml:reply:x", "ml:reply:y")
    _submit(store, "a", channel="ml:reply:x")
    scripts.run(store, [scripts.watch("a", channel="ml:reply:y"), scripts.watch("a", channel="ml:reply:y")])
    meta = b'{"status":"SUCCESS"}'
    scripts.run(store, [scripts.finish("a", tag="a", state=State.SUCCEEDED, code="", meta=meta, ttl_ms=1000)] * 2)
    told = []
    while len(told) < 2:
        message = pubsub.get_message(timeout=5)
        if message:
            told.append((message["channel"], message["data"].split(b"\n", 3)))
    assert {channel for channel, _ in told} == {b"ml:reply:x", b"ml:reply:y"}
    assert {(parts[0], parts[2], parts[3]) for _, parts in told} == {(b"a", b"succeeded", meta)}
    assert scripts.one(scripts.run(store, [scripts.watch("a")])).meta == meta
    assert pubsub.get_message(timeout=0.1) is None
    pubsub.close()


def test_abandon_cancels_only_what_nobody_else_wants(store: redis.Redis) -> None:
    _submit(store, "alone", channel="c1")
    _submit(store, "shared", channel="c1")
    _submit(store, "keyed", channel="c1", idempotency="k", fingerprint="f")
    scripts.run(store, [scripts.watch("shared", channel="c2")])
    scripts.run(store, [scripts.cancel(job, abandoned_by="c1") for job in ("alone", "shared", "keyed")])
    states = [store.hget(keys.JOB + job, "state") for job in ("alone", "shared", "keyed")]
    assert states == [b"canceled", b"queued", b"queued"]


def test_idempotency_and_limits(store: redis.Redis) -> None:
    assert _submit(store, "a", idempotency="k", fingerprint="f").status == "accepted"
    assert _submit(store, "b", idempotency="k", fingerprint="f") == scripts.Submitted("existing", "a")
    assert _submit(store, "b", idempotency="k", fingerprint="g").status == "mismatch"
    assert _submit(store, "c", max_jobs=1).status == "full"
    assert _submit(store, "c", max_bytes=15).status == "full"
    assert store.llen(LIST) == 1


def test_a_full_store_refuses_new_jobs_and_ends_old_ones(tmp_path: Any) -> None:
    with EmbeddedServer(tmp_path / "redis") as own:
        store = redis.Redis.from_url(own.url)
        _submit(store, "a")
        store.config_set("maxmemory", "1")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            _submit(store, "b")
        assert len(scripts.one(scripts.run(store, [scripts.drain([LIST], [1])])).messages) == 1
        claim = scripts.claim(["a"], process="p", worker="w", max_attempts=3)
        assert scripts.one(scripts.run(store, [claim]))[0].status == "run"
        finish = scripts.finish("a", tag="a", state=State.SUCCEEDED, code="", meta=b"{}", ttl_ms=1000)
        assert scripts.one(scripts.run(store, [finish])).first
        assert store.get(keys.OUTCOME + "a") == b"{}"
        store.close()


def test_scripts_survive_a_server_that_forgets_them(store: redis.Redis) -> None:
    _submit(store, "a")
    store.script_flush()
    replies = scripts.run(store, [scripts.watch("a"), scripts.sweep(), scripts.watch("a")])
    assert [reply.record["state"] for reply in (replies[0], replies[2])] == ["queued", "queued"]
    store.script_flush()
    assert scripts.run_on(store, scripts.watch("a")).record["state"] == "queued"
