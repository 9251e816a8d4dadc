"""A job that starts in the step that takes it: the same as a claim would have made of it, or nothing at all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import redis

from shared import keys, messages, scripts
from shared.catalog import Ref
from shared.types import State
from worker.claims import Claimer
from worker.holdings import Holdings, Started
from worker.work import Unit, Work

REF = "echo@1"
QUEUE = keys.queue_name("echo", "1")
LIST = keys.queue_list(QUEUE, keys.NORMAL)


def submit(store: redis.Redis, job_id: str, **fields: str | int) -> None:
    call = scripts.submit(
        job_id,
        list_name=LIST,
        raw=messages.build(job_id, queue=QUEUE, priority=keys.NORMAL, model="echo", version="1", input=1),
        ref=REF,
        deadline_ms=60_000,
        ttl_ms=60_000,
        size=10,
        max_jobs=100,
        max_bytes=1000,
        fields={"model": "echo", "version": "1"} | fields,
    )
    assert scripts.one(scripts.run(store, [call])).status == "accepted"


def take(store: redis.Redis, start_as: str = "w", process: str = "p") -> scripts.Drained:
    call = scripts.drain([LIST], [8], process=process, start_as=start_as)
    drained: scripts.Drained = scripts.one(scripts.run(store, [call]))
    return drained


def claim(store: redis.Redis, job_id: str, process: str = "p") -> scripts.Verdict:
    call = scripts.claim([job_id], process=process, worker="w", max_attempts=3)
    verdict: scripts.Verdict = scripts.one(scripts.run(store, [call]))[0]
    return verdict


def record(store: redis.Redis, job_id: str) -> dict[bytes, bytes]:
    found = store.hgetall(keys.JOB + job_id)
    return {name: value for name, value in found.items() if not name.endswith(b"_at")}


def test_it_is_as_a_claim_makes_it(store: redis.Redis) -> None:
    submit(store, "claimed")
    assert take(store, "").started is None
    verdict = claim(store, "claimed")
    counted = store.hgetall(keys.COUNTERS + REF)
    expected = record(store, "claimed")
    store.flushdb()
    submit(store, "started")
    started = take(store).started
    assert started is not None
    assert (started.status, started.attempt) == (verdict.status, verdict.attempt) == ("run", 1)
    assert record(store, "started") == expected
    assert store.hgetall(keys.COUNTERS + REF) == counted
    assert started.started_at == int(store.hget(keys.JOB + "started", "started_at") or 0)
    assert started.queued_at == int(store.hget(keys.JOB + "started", "created_at") or 0)
    again = claim(store, "started")
    assert again == started, "claiming it again is harmless, and no second attempt"


@pytest.mark.parametrize(
    "fields",
    [
        {"suspect": "1"},
        {"canceled": "1"},
        {"listeners": "channel"},
        {"webhook": "hook"},
        {"batch": "b"},
        {"runner": "gone"},
        {"state": "succeeded"},
        {"deadline_at": 1},
        {"payloads": 1},
        {"stored": "r1.1"},
        {"attempt": "many"},
    ],
)
def test_what_is_to_be_looked_at_is_left_to_the_claim(store: redis.Redis, fields: dict[str, str | int]) -> None:
    submit(store, "a")
    store.hset(keys.JOB + "a", mapping=dict(fields))
    before = store.hgetall(keys.JOB + "a"), store.hgetall(keys.COUNTERS + REF)
    drained = take(store)
    assert (len(drained.messages), drained.started) == (1, None)
    assert (store.hgetall(keys.JOB + "a"), store.hgetall(keys.COUNTERS + REF)) == before


def test_of_two_neither_starts(store: redis.Redis) -> None:
    submit(store, "a")
    submit(store, "b")
    assert take(store).started is None
    assert store.hget(keys.JOB + "a", "state") == b"queued"


def test_a_message_without_a_record_starts_nothing(store: redis.Redis) -> None:
    submit(store, "a")
    store.delete(keys.JOB + "a")
    assert take(store).started is None
    assert not store.exists(keys.JOB + "a")


def test_it_is_given_back_as_any_other(store: redis.Redis) -> None:
    submit(store, "a")
    assert take(store).started is not None
    scripts.run(store, [scripts.give_back(["a"], process="p")])
    assert store.hmget(keys.JOB + "a", "state", "runner", "suspect") == [b"queued", None, None]
    assert (store.hget(keys.COUNTERS + REF, "queued"), store.hget(keys.COUNTERS + REF, "running")) == (b"1", b"0")


def test_a_start_whose_worker_dies_is_a_crash_in_company(store: redis.Redis) -> None:
    """It runs alone next time, and that does not count toward its attempts yet."""
    submit(store, "a")
    assert take(store).started is not None
    scripts.run(store, [scripts.give_back_crashed(["a"], process="p")])
    assert take(store, process="q").started is None
    assert claim(store, "a", process="q").status == "suspect"
    assert store.hget(keys.JOB + "a", "crashes") is None


def test_only_who_holds_nothing_starts_what_it_takes() -> None:
    holdings = Holdings("p", lambda _: 8, starts=lambda name: name != "calls")
    assert holdings.may_start([LIST])
    assert not holdings.may_start([LIST, "calls"])
    started = Started(scripts.Verdict("run", 1), 0.0)
    holdings.hold("a", LIST, started=started)
    assert not holdings.may_start([LIST])
    assert holdings.started("a") is started
    holdings.release("a")
    assert holdings.started("a") is None
    assert holdings.may_start([LIST])


@pytest.mark.parametrize("late", [False, True])
def test_it_needs_no_claim_for_a_moment(store: redis.Redis, late: bool) -> None:
    assert claim(store, "nobody").status == "missing", "a script that the server does not know is asked for twice"
    submit(store, "a")
    work = Work("a", "a", Ref("echo", "1"), keys.NORMAL, request=None)
    verdict = take(store).started
    assert verdict is not None
    work.started = Started(verdict, 100.0)
    asked: list[Any] = []

    class Counting(redis.Redis):
        def pipeline(self, *args: Any, **kwargs: Any) -> Any:
            asked.append(args)
            return super().pipeline(*args, **kwargs)

    nobody: Any = SimpleNamespace(started=lambda _: None)
    metrics: Any = SimpleNamespace(of=lambda _: SimpleNamespace(started=lambda **_: None))
    client = Counting(connection_pool=store.connection_pool)
    claimer = Claimer(
        client,
        nobody,
        nobody,
        metrics,
        process="p",
        worker="w",
        max_attempts=3,
        clock=lambda: 101.0 if late else 100.01,
    )
    unit: Any = SimpleNamespace(work=work)
    units: list[Unit] = [unit]
    assert claimer.claim(units, lambda _: True).units == units
    assert (work.claimed, work.attempt) == (True, 1)
    assert len(asked) == int(late)
    assert claimer.claim(units, lambda _: True).units == units
    assert len(asked) == int(late) + 1, "the next batch of it is claimed"


def test_what_it_reads_wakes_nobody_later(store: redis.Redis, redis_url: str) -> None:
    """The drain connection tracks what its script reads; what the script then writes itself is tracked no more."""
    client = redis.Redis.from_url(redis_url, protocol=2)
    wake, drainer = client.connection_pool.get_connection(), redis.Redis.from_url(redis_url, protocol=2)
    wake.send_command("CLIENT", "ID")
    number = wake.read_response()
    wake.send_command("SUBSCRIBE", "__redis__:invalidate")
    wake.read_response()
    drainer.connection = drainer.connection_pool.get_connection()
    drainer.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", number, "NOLOOP")
    drain = scripts.drain([LIST], [8], process="p", start_as="w")
    for job_id in ("a", "b"):
        scripts.run_on(drainer, drain)
        submit(store, job_id)
        assert wake.read_response() == [b"message", b"__redis__:invalidate", [LIST.encode()]]
        assert scripts.run_on(drainer, drain).started is not None
        end = scripts.End(job_id, job_id, State.SUCCEEDED, "", b"{}")
        scripts.finish_all(store, [end], ttl_ms=60_000)
    wake.disconnect()
    for one in (client, drainer):
        one.close()
