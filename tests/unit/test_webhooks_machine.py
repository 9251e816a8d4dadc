"""The scripts of webhooks under a Hypothesis state machine: any order of ends, takes, reports, deaths and redeliveries.

After every step each delivery is where its state says, the hosts are in the order of their first, no more of a host is
taken than its room, nothing that a living lease covers is taken twice, and every key lives as long as it should.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from local.embedded import EmbeddedServer
from shared import keys, messages, scripts
from shared.scripts_webhooks import Due, Taken, backlog, deliver, delivered, redeliver
from shared.types import State
from shared.webhooks import delivery_id
from tests.machines import run_machine, short_and_long

HOSTS = ("a.example", "b.example", "c.example")
TTL_MS, LEASE_MS, HOUR_MS = 7_200_000, 600_000, 3_600_000
LIST = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL)
MINUTE_MS = 60_000

anything = st.integers(0, 1_000_000)
host_of = st.sampled_from(HOSTS)


@dataclass
class Model:
    """What must be true of one delivery."""

    job: str
    host: str
    state: str = "due"
    later: bool = False  # it waits for another attempt
    holder: str = ""  # whose lease runs
    tries: int = 0
    attempts: int = 0
    body: bytes = b""
    forced: bool = False
    held: bool = True  # its job is kept for it
    job_lives: bool = True


class Machine(RuleBasedStateMachine):
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.made = self.takes = 0
        self.deliveries: dict[str, Model] = {}
        self.hands: list[Taken] = []  # also of those whose lease has run out
        self.off: set[str] = set()
        self.counts: dict[str, int] = {}

    def run(self, call: scripts.Call[Any]) -> Any:
        return scripts.one(scripts.run(self.client, [call]))

    @rule(host=host_of, wanted=st.sampled_from([True, True, True, False]))
    def a_job_ends(self, host: str, wanted: bool) -> None:
        self.made += 1
        job = f"job-{self.made}"
        events = ["succeeded"] if wanted else ["failed"]
        hook = orjson.dumps({"url": f"http://{host}/", "host": host, "events": events}).decode()
        call = scripts.submit(
            job,
            list_name=LIST,
            raw=messages.build(job, queue="q", priority=3, model="echo", version="1", input=[]),
            ref="echo@1",
            deadline_ms=HOUR_MS,
            ttl_ms=TTL_MS,
            size=1,
            max_jobs=10_000,
            max_bytes=1_000_000,
            fields={"model": "echo", "version": "1", "owner": "key_a", "webhook": hook},
        )
        assert self.run(call).status == "accepted"
        end = scripts.finish(job, tag="", state=State.SUCCEEDED, code="", meta=b"{}", ttl_ms=1000)
        assert self.run(end).first
        assert not self.run(end).first, "its answer was lost with the connection"
        if wanted:
            self.deliveries[delivery_id(job, "succeeded")] = Model(job, host)
        else:
            assert self.client.pttl(keys.JOB + job) <= TTL_MS

    @rule(most=st.integers(0, 5), each=st.integers(1, 3), full=st.lists(host_of, max_size=2, unique=True))
    def take(self, most: int, each: int, full: list[str]) -> None:
        self.takes += 1
        ready = {name: model for name, model in self.deliveries.items() if self._is_due(model)}
        holder = f"take-{self.takes}"
        rooms = dict.fromkeys(full, 0)
        due: Due = self.run(deliver(lease_ms=LEASE_MS, most=most, of_one_host=each, holder=holder, rooms=rooms))
        taken = [one.id for one in due.taken]
        assert len(taken) == len(set(taken)) <= most
        for one in due.taken:
            model = self.deliveries[one.id]
            assert one.id in ready, "nobody's, and due"
            assert model.host not in self.off or model.forced
            assert (one.host, one.tries, one.body, one.of) == (model.host, model.tries, model.body, model.job)
            model.holder, model.later = holder, False
        for host in HOSTS:
            count = sum(self.deliveries[name].host == host for name in taken)
            assert count <= (0 if host in full else each)
            left = [name for name, model in ready.items() if model.host == host and name not in taken]
            for name in left:
                # Passed over while it looked for others; or there was no room.
                if self._field(name, "state") == "disabled":
                    assert host in self.off
                    assert not self.deliveries[name].forced
                    self._end(name, "disabled")
            left = [name for name in left if self.deliveries[name].state == "due"]
            enough = host in full or count == each or len(taken) == most
            assert enough or not left or due.wait_ms == 0, "all that there was room for, or look again"
        self.hands += due.taken

    @precondition(lambda self: self.hands)
    @rule(n=anything, came=st.sampled_from(["delivered", "retry", "failed", "disabled", "back"]), again=st.booleans())
    def report(self, n: int, came: Any, again: bool) -> None:
        one = self.hands.pop(n % len(self.hands))
        model = self.deliveries[one.id]
        for _ in range(1 + again):  # its answer was lost with the connection
            mine = model.state == "due" and model.holder == one.holder
            call = delivered(one, came, status=200, wait_ms=MINUTE_MS, body=b"body of " + model.job.encode())
            stands = self.run(call)
            if came != "back":
                model.attempts += 1
                self.counts[came] = self.counts.get(came, 0) + 1
            counts = mine or (came == "delivered" and model.state != "delivered")
            if counts:
                self._came(one.id, model, came)
            assert stands == model.state

    def _came(self, name: str, model: Model, came: str) -> None:
        if came in ("retry", "back"):
            model.holder, model.later = "", True
            if came == "retry":
                model.tries += 1
                model.body, model.forced, model.held = b"body of " + model.job.encode(), False, False
            return
        model.body = b"" if came == "delivered" else b"body of " + model.job.encode()
        model.forced = False
        if came == "disabled":
            self.off.add(model.host)
        if came == "delivered":
            self.off.discard(model.host)
        self._end(name, came)

    def _end(self, name: str, state: str) -> None:
        model = self.deliveries[name]
        model.state, model.holder, model.later, model.held = state, "", False, False

    @precondition(lambda self: any(model.holder for model in self.deliveries.values()))
    @rule(n=anything)
    def a_lease_runs_out(self, n: int) -> None:
        """Who had it was killed, or stands still and will report late."""
        held = [name for name, model in self.deliveries.items() if model.holder]
        name = held[n % len(held)]
        self._is_due_now(name)

    @precondition(lambda self: any(model.later for model in self.deliveries.values()))
    @rule(n=anything)
    def time_passes(self, n: int) -> None:
        later = [name for name, model in self.deliveries.items() if model.later]
        name = later[n % len(later)]
        self._is_due_now(name)
        self.deliveries[name].later = False

    def _is_due_now(self, name: str) -> None:
        model = self.deliveries[name]
        self.client.zadd(keys.HOST + model.host, {name: 1})
        self.client.zadd(keys.WEBHOOKS, {model.host: 1})

    @precondition(lambda self: self.deliveries)
    @rule(n=anything)
    def somebody_asks_for_it_again(self, n: int) -> None:
        name = list(self.deliveries)[n % len(self.deliveries)]
        model = self.deliveries[name]
        (told,) = self.run(redeliver([name]))
        if not model.job_lives and not model.body:
            assert told == "gone"
            return
        assert told == "due"
        score = self.client.zscore(keys.HOST + model.host, name)
        assert score is not None
        if model.state == "due" and model.holder and score > 1e12 and not self._now(score):
            return  # it is under way
        model.state, model.tries, model.forced, model.holder, model.later = "due", 0, True, "", False

    def _now(self, score: float) -> bool:
        seconds, micros = self.client.time()
        return score <= seconds * 1000 + micros // 1000

    @precondition(lambda self: any(not model.held and model.job_lives for model in self.deliveries.values()))
    @rule(n=anything)
    def a_job_expires(self, n: int) -> None:
        some = [model for model in self.deliveries.values() if not model.held and model.job_lives]
        model = some[n % len(some)]
        model.job_lives = False
        self.client.delete(keys.JOB + model.job, keys.OUTCOME + model.job)

    @precondition(lambda self: len(self.deliveries) > 4)
    @rule(n=anything, swept=st.booleans())
    def one_expires(self, n: int, swept: bool) -> None:
        """Nobody has delivered for a day."""
        name = list(self.deliveries)[n % len(self.deliveries)]
        model = self.deliveries.pop(name)
        self.hands = [one for one in self.hands if one.id != name]
        self.client.delete(keys.HOOK + name)
        if model.state == "due":
            self.client.zadd(keys.HOST + model.host, {name: 1})
            self.client.zadd(keys.WEBHOOKS, {model.host: 1})
        if swept and not any(self._score(other) == 1 for other in self.deliveries):
            self.run(scripts.sweep())
            assert self.client.zscore(keys.HOST + model.host, name) is None

    def _score(self, name: str) -> float | None:
        score = self.client.zscore(keys.HOST + self.deliveries[name].host, name)
        return None if score is None else float(score)

    def _is_due(self, model: Model) -> bool:
        name = delivery_id(model.job, "succeeded")
        score = self._score(name)
        return model.state == "due" and score is not None and (score == 1 or (not model.holder and not model.later))

    def _field(self, name: str, field: str) -> str:
        return (self.client.hget(keys.HOOK + name, field) or b"").decode()

    @invariant()
    def each_is_where_its_state_says_and_lives_as_long_as_it_should(self) -> None:
        pipe = self.client.pipeline(transaction=False)
        for name, model in self.deliveries.items():
            pipe.hgetall(keys.HOOK + name)
            pipe.pttl(keys.HOOK + name)
            pipe.zscore(keys.HOST + model.host, name)
            pipe.pttl(keys.JOB + model.job)
            pipe.pttl(keys.OUTCOME + model.job)
        replies = pipe.execute()
        for at, model in enumerate(self.deliveries.values()):
            flat, ttl, score, job_ttl, outcome_ttl = replies[5 * at : 5 * at + 5]
            record = {k.decode(): v for k, v in flat.items()}
            assert record["state"].decode() == model.state
            assert (score is not None) == ("next_at" in record) == (model.state == "due")
            assert int(record["tries"]) == model.tries
            assert record.get("body", b"") == model.body
            assert ("forced" in record) == model.forced
            assert len(record.get("log", b"").splitlines()) == min(20, model.attempts)
            assert 0 < ttl <= keys.HOOK_TTL_MS + LEASE_MS
            if model.job_lives:
                assert (job_ttl > TTL_MS) == model.held, "as long as its body is not made"
                assert abs(outcome_ttl - job_ttl) < 1000

    @invariant()
    def hosts_are_in_the_order_of_their_first(self) -> None:
        for host in HOSTS:
            first = self.client.zrange(keys.HOST + host, 0, 0, withscores=True)
            assert self.client.zscore(keys.WEBHOOKS, host) == (first[0][1] if first else None)
        seen = self.run(backlog())
        assert seen.waiting == sum(self.client.zcard(keys.HOST + host) for host in HOSTS)

    @invariant()
    def what_came_is_counted(self) -> None:
        assert {k.decode(): int(v) for k, v in self.client.hgetall(keys.HOOK_COUNTS).items()} == self.counts
        assert len(self.client.keys(f"{keys.HOOK_OFF}key_a:*")) == len(self.off)

    def teardown(self) -> None:
        for key in self.client.scan_iter(count=1000):
            assert self.client.ttl(key) != -1 or keys.NO_TTL.match(key.decode()), key


@short_and_long
@pytest.mark.usefixtures("store")
def test_any_order_keeps_the_promises(server: EmbeddedServer, times: int) -> None:
    run_machine(Machine, server, examples=10, times=times, steps=40)
