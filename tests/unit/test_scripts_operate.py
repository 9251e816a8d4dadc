"""Pause and purge, on a real server."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import redis

from shared import keys, messages, scripts, scripts_operate
from shared.types import State

MODEL = "my.model/a"
REF = f"{MODEL}@1"
LISTS = [keys.queue_list(keys.queue_name(MODEL, "1"), step) for step in keys.PRIORITIES]
OTHER, OTHER_REF = keys.queue_list(keys.queue_name("my", "model"), keys.NORMAL), "my@model"


def run(store: redis.Redis, call: scripts.Call[Any]) -> Any:
    return scripts.one(scripts.run(store, [call]))


def submit(store: redis.Redis, job_id: str, *, list_name: str = LISTS[1], ref: str = REF, owner: str = "") -> None:
    raw = messages.build(job_id, queue="q", priority=keys.NORMAL, model="m", version="1", input=[])
    call = scripts.submit(
        job_id,
        list_name=list_name,
        raw=raw,
        ref=ref,
        deadline_ms=60_000,
        ttl_ms=60_000,
        size=10,
        max_jobs=200_000,
        max_bytes=10**9,
        channel="ml:reply:x",
        share=scripts.Share(owner),
        fields={"model": "m", "version": "1", **({"owner": owner} if owner else {})},
    )
    assert run(store, call).status == "accepted"


def delay(store: redis.Redis, job_id: str) -> None:
    raw = messages.build(job_id, queue="q", priority=keys.NORMAL, model="m", version="1", input=[])
    start_at = store.time()[0] * 1000 + 30_000
    what: dict[str, Any] = {"list_name": LISTS[1], "raw": raw, "ref": REF, "size": 1, "ttl_ms": 60_000}
    call = scripts.adopt(f"of-{job_id}", job_id, deadline_ms=60_000, start_at=start_at, fields={}, **what)
    assert run(store, call) == "adopted"


def drain(store: redis.Redis, room: int = 100, *, lists: list[str] | None = None) -> scripts.Drained:
    lists = lists or [*LISTS, OTHER]
    drained: scripts.Drained = run(store, scripts.drain(lists, [room] * len(lists), process="p"))
    return drained


def claim(store: redis.Redis, *ids: str, solo: bool = False) -> list[str]:
    call = scripts.claim(ids, process="p", worker="w", max_attempts=3, solo=solo)
    return [verdict.status for verdict in run(store, call)]


def counters(store: redis.Redis, ref: str = REF) -> dict[str, int]:
    found = store.hgetall(keys.COUNTERS + ref)
    return {
        name: int(found.get(name.encode(), 0)) for name in ("queued", "delayed", "running", "canceled", "succeeded")
    }


def test_nothing_of_a_paused_model_is_taken_and_others_are(store: redis.Redis) -> None:
    submit(store, "a", list_name=LISTS[0])
    submit(store, "b", owner="key_x")
    submit(store, "c", list_name=OTHER, ref=OTHER_REF)
    assert run(store, scripts_operate.pause(MODEL, on=True)) is True
    assert run(store, scripts_operate.pause(MODEL, on=True)) is False, "it was"
    taken = drain(store)
    assert (taken.tags, taken.left, taken.waiting) == ([b"c"], [], [])
    unloaded = run(store, scripts.drain(LISTS, [-1] * len(LISTS), process="p"))
    assert unloaded.waiting == [], "it is not loaded for them either"
    assert run(store, scripts_operate.pause(MODEL, on=False)) is True
    assert run(store, scripts_operate.pause(MODEL, on=False)) is False
    assert drain(store).tags == [b"a", b"b"]


def test_what_a_worker_holds_does_not_start_and_what_runs_goes_on(store: redis.Redis) -> None:
    for job_id in ("a", "b", "c"):
        submit(store, job_id)
    drain(store)
    assert claim(store, "a") == ["run"]
    run(store, scripts_operate.pause(MODEL, on=True))
    assert claim(store, "a", "b") == ["run", "paused"], "its next batch, and one that has not started"
    assert run(store, scripts.give_back(["b", "c"], process="p")) == ["c", "b"]
    assert counters(store) == {"queued": 2, "delayed": 0, "running": 1, "canceled": 0, "succeeded": 0}
    call = scripts.finish("a", tag="a", state=State.SUCCEEDED, code="", meta=b"{}", ttl_ms=1000)
    assert run(store, call).first
    assert drain(store).tags == []
    run(store, scripts_operate.pause(MODEL, on=False))
    assert drain(store).tags == [b"b", b"c"]
    assert claim(store, "b", "c") == ["run", "run"]
    assert store.hget(keys.JOB + "b", "attempt") == b"1", "the pause was no start"


def test_a_pause_hides_no_crash(store: redis.Redis) -> None:
    """The start that died is counted though the job is not started again."""
    submit(store, "a")
    look = scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000)
    run(store, look)
    run(store, scripts.drain(LISTS, [1] * 3, process="gone"))
    run(store, scripts.claim(["a"], process="gone", worker="w", max_attempts=3, solo=True))
    store.zadd(keys.LEASES, {"a": 1})
    assert run(store, look) == ["a"]
    drain(store)
    run(store, scripts_operate.pause(MODEL, on=True))
    assert claim(store, "a", solo=True) == ["paused"]
    run(store, scripts.give_back(["a"], process="p"))
    assert store.hmget(keys.JOB + "a", "crashes", "suspect", "runner") == [b"1", b"1", None]


def test_deadlines_of_a_paused_model_hold(store: redis.Redis) -> None:
    submit(store, "a")
    run(store, scripts_operate.pause(MODEL, on=True))
    store.zadd(keys.DEADLINES, {"a": 1})
    assert run(store, scripts.sweep({REF: keys.queue_name(MODEL, "1")})).ended == ["a"]
    assert store.hget(keys.JOB + "a", "code") == b"deadline_exceeded"


def purge(store: redis.Redis, where: scripts_operate.Where, most: int = 100) -> tuple[int, int]:
    """How many ended, and in how many slices."""
    ended, slices, cursor = 0, 0, "0"
    while True:
        done = run(store, scripts_operate.purge(LISTS, [REF], where=where, cursor=cursor, most=most))
        ended, slices, cursor = ended + done.ended, slices + 1, done.cursor
        if cursor == "0":
            return ended, slices


def test_purge_ends_what_waits_and_nothing_else(store: redis.Redis) -> None:
    submit(store, "running")
    submit(store, "held")
    drain(store)
    assert claim(store, "running") == ["run"]
    submit(store, "high", list_name=LISTS[0])
    submit(store, "normal", owner="key_x")
    submit(store, "low", list_name=LISTS[2])
    submit(store, "other", list_name=OTHER, ref=OTHER_REF)
    delay(store, "later")
    pubsub = store.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe("ml:reply:x")
    assert [purge(store, where)[0] for where in ("held", "delayed", "lists")] == [1, 1, 3]
    assert counters(store) == {"queued": 0, "delayed": 0, "running": 1, "canceled": 5, "succeeded": 0}
    assert counters(store, OTHER_REF)["queued"] == 1
    told = set()
    while len(told) < 4:
        if message := pubsub.get_message(timeout=5):
            told.add(message["data"].split(b"\n")[0])
    pubsub.close()
    assert told == {b"held", b"high", b"normal", b"low"}, "who waits for them knows"
    assert store.keys("ml.my*") == [OTHER.encode()]
    assert store.keys("ml.turns*") == store.keys("ml.lane*") == []
    assert orjson.loads(store.get(keys.OUTCOME + "low") or b"")["ml"]["error"]["code"] == "canceled"
    assert claim(store, "held") == ["ended"], "the worker that holds it drops it"
    assert [purge(store, where)[0] for where in ("held", "delayed", "lists")] == [0, 0, 0]


def test_purge_goes_in_slices(store: redis.Redis) -> None:
    for number in range(25):
        submit(store, f"job-{number}", list_name=LISTS[number % 3], owner=f"key_{number % 2}")
    assert purge(store, "lists", most=10) == (25, 3)
    for number in range(700):
        submit(store, f"held-{number}")
    drain(store, 700)
    ended, slices = purge(store, "held", most=50)
    assert ended == 700
    assert slices > 2


def test_purge_keeps_what_is_no_message_for_a_human(store: redis.Redis) -> None:
    store.lpush(LISTS[1], b"nonsense")
    submit(store, "gone")
    store.delete(keys.JOB + "gone")
    store.zrem(keys.DEADLINES, "gone")
    assert purge(store, "lists") == (0, 1)
    assert [letter[b"reason"] for _, letter in store.xrange(keys.DEAD)] == [b"unparsable"]
    assert store.keys("ml.my*") == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_long_queue_does_not_hold_redis_up(store: redis.Redis) -> None:
    """By the server's own clock: each slice costs what it costs whatever waits behind, so the longest is a small part
    of the whole, and 100,000 jobs are only more slices."""
    what: dict[str, Any] = {"deadline_ms": 600_000, "ttl_ms": 60_000, "size": 1, "max_jobs": 10**6, "max_bytes": 10**9}
    build = {"queue": "q", "priority": keys.NORMAL, "model": "m", "version": "1", "input": []}
    for first in range(0, 20_000, 1000):
        ids = [f"j{number}" for number in range(first, first + 1000)]
        raws = [messages.build(job_id, **build) for job_id in ids]
        pairs = zip(ids, raws, strict=True)
        scripts.run(store, [scripts.submit(one, list_name=LISTS[1], raw=raw, ref=REF, **what) for one, raw in pairs])
    # Valkey also logs what a script calls: a slice takes milliseconds, and of these hardly any so long.
    store.config_set("slowlog-log-slower-than", 100)
    store.config_set("slowlog-max-len", 1000)
    store.slowlog_reset()
    assert purge(store, "lists", most=200) == (20_000, 100)
    took = [entry["duration"] for entry in store.slowlog_get(1000) if b"EVALSHA" in entry["command"]]
    store.config_set("slowlog-log-slower-than", 10_000)
    assert len(took) == 100
    assert max(took) < sum(took) / 5
    assert counters(store)["canceled"] == 20_000
