"""Many outcomes in one call: each job by itself, what they share once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import redis
from redis.exceptions import ResponseError

from shared import keys, messages, scripts, scripts_finish
from shared.types import State

REF, OTHER = "echo@1", "other@1"
LIST = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL)
TTL_MS = 60_000


def run_jobs(store: redis.Redis, *job_ids: str, ref: str = REF, **fields: str | int) -> None:
    """They run, in the hands of `p`."""
    for job_id in job_ids:
        raw = messages.build(job_id, queue="q", priority=keys.NORMAL, model="echo", version="1", input=1)
        what: dict[str, Any] = {"list_name": LIST, "raw": raw, "ref": ref, "deadline_ms": 3_600_000, "ttl_ms": TTL_MS}
        owner = str(fields.get("owner", ""))
        call = scripts.submit(
            job_id, **what, size=10, max_jobs=1000, max_bytes=10**9, share=scripts.Share(owner), fields=fields
        )
        assert scripts.one(scripts.run(store, [call])).status == "accepted"
    scripts.run(store, [scripts.drain([LIST], [len(job_ids)], process="p")])
    claim = scripts.claim(job_ids, process="p", worker="w", max_attempts=3)
    assert {one.status for one in scripts.one(scripts.run(store, [claim]))} == {"run"}


def end(job_id: str, **more: Any) -> scripts.End:
    return scripts.End(job_id, **{"tag": job_id, "state": State.SUCCEEDED, "code": "", "meta": b"{}"} | more)


def counters(store: redis.Redis, ref: str = REF) -> dict[str, int]:
    found = {name.decode(): int(value) for name, value in store.hgetall(keys.COUNTERS + ref).items()}
    return {name: found.get(name, 0) for name in ("queued", "running", "bytes", "succeeded", "failed", "canceled")}


NONE = {"queued": 0, "running": 0, "bytes": 0, "succeeded": 0, "failed": 0, "canceled": 0}


def test_each_job_of_a_call_has_its_own_answer(store: redis.Redis) -> None:
    """One that was canceled while it ran, one that had ended, one without a record, a failed one, a fine one."""
    run_jobs(store, "canceled", "ended", "gone", "failed", "fine")
    scripts.run(store, [scripts.cancel("canceled")])
    scripts.finish_all(store, [end("ended", state=State.FAILED, code="timeout")], ttl_ms=TTL_MS)
    store.delete(keys.JOB + "gone")
    ends = [end("canceled"), end("ended"), end("gone"), end("failed", state=State.FAILED, code="x"), end("fine")]
    assert scripts.finish_all(store, ends, ttl_ms=TTL_MS) == [
        scripts.Finished(True, State.CANCELED),
        scripts.Finished(False, State.FAILED),
        scripts.Finished(True, State.SUCCEEDED),  # nobody else has an outcome of it
        scripts.Finished(True, State.FAILED),
        scripts.Finished(True, State.SUCCEEDED),
    ]
    assert scripts.finish_all(store, ends, ttl_ms=TTL_MS)[4] == scripts.Finished(False, State.SUCCEEDED)
    assert not store.exists(keys.UNACKED, keys.HOLDERS, keys.LEASES)
    # Of the lost record nobody knows the size; the sweep recounts.
    assert counters(store) == NONE | {"succeeded": 1, "failed": 2, "canceled": 1, "running": 1, "bytes": 10}
    assert orjson.loads(store.get(keys.OUTCOME + "canceled") or b"")["status"] == "REVOKED"
    store.zadd(keys.DEADLINES, {"gone": 1})
    scripts.run(store, [scripts.sweep({REF: keys.queue_name("echo", "1")})])
    assert counters(store)["running"] == counters(store)["bytes"] == 0


def spoil(store: redis.Redis, what: str) -> None:
    """As by somebody's hand: the middle one of three cannot end."""
    if what == "record":
        store.hset(keys.JOB + "b", "size", "many")
    elif what == "its payloads":  # only found when its outcome stands
        store.hset(keys.JOB + "b", "stored", f"r{'0' * 32}.1")
        store.set(keys.STORED, "no sorted set", px=TTL_MS)


@pytest.mark.parametrize(("what", "stands"), [("record", False), ("its payloads", True)])
def test_a_job_that_fails_takes_no_neighbour_with_it(store: redis.Redis, what: str, stands: bool) -> None:
    run_jobs(store, "a", "b", "c")
    spoil(store, what)
    first, second, third = scripts.finish_all(store, [end("a"), end("b"), end("c")], ttl_ms=TTL_MS)
    assert first == third == scripts.Finished(True, State.SUCCEEDED)
    assert isinstance(second, ResponseError)
    assert store.hkeys(keys.UNACKED) == [b"b"], "its message is there until its outcome is known to stand"
    assert [store.exists(keys.OUTCOME + job_id) for job_id in "abc"] == [1, stands, 1]
    assert (store.hget(keys.JOB + "b", "state") == b"succeeded") is stands
    done = 3 if stands else 2
    left = {} if stands else {"running": 1, "bytes": 10}
    assert counters(store) == NONE | {"succeeded": done} | left, "counted is what stands"
    assert store.zcard(keys.DEADLINES) == (0 if stands else 1)
    with_a_letter = scripts.run(store, [scripts.bury("b", "rejected")])[0]
    assert isinstance(with_a_letter, ResponseError) is not stands
    assert not store.exists(keys.UNACKED)


def test_counters_that_are_none_keep_nobody_from_his_end(store: redis.Redis) -> None:
    run_jobs(store, "a", owner="key_a")
    run_jobs(store, "b", ref=OTHER, owner="key_b")
    for key in (keys.COUNTERS + REF, keys.OWNED + REF):
        store.delete(key)
        store.set(key, "no hash", px=TTL_MS)
    usage = scripts.Usage(1, 2, 3)
    replies = scripts.finish_all(store, [end("a", usage=usage), end("b", usage=usage)], ttl_ms=TTL_MS)
    assert replies == [scripts.Finished(True, State.SUCCEEDED)] * 2
    assert counters(store, OTHER) == NONE | {"succeeded": 1}
    assert not store.exists(keys.ACTIVE, keys.OWNED + OTHER), "nobody has anything under way"
    for owner, ref in (("key_a", REF), ("key_b", OTHER)):
        (used,) = store.scan_iter(f"{keys.USAGE}{owner}:*")
        assert store.hgetall(used) == {
            f"{ref} {name}".encode(): value
            for name, value in (("jobs", b"1"), ("items", b"1"), ("tokens", b"2"), ("device_us", b"3"))
        }


def test_what_jobs_share_is_written_once(store: redis.Redis) -> None:
    ids = [f"j{number}" for number in range(50)]
    run_jobs(store, *ids, owner="key_a")
    run_jobs(store, "other", owner="key_b")
    assert (store.hget(keys.ACTIVE, "key_a"), store.hget(keys.OWNED + REF, "key_a:bytes")) == (b"50", b"500")
    usage = scripts.Usage(2, 3, 4)
    scripts.finish_all(store, [end(job_id, usage=usage) for job_id in ids[:49]], ttl_ms=TTL_MS)
    assert store.hgetall(keys.ACTIVE) == {b"key_a": b"1", b"key_b": b"1"}
    scripts.finish_all(store, [end(ids[49], usage=usage)], ttl_ms=TTL_MS)
    assert store.hgetall(keys.ACTIVE) == {b"key_b": b"1"}
    assert store.hgetall(keys.OWNED + REF) == {b"key_b": b"1", b"key_b:bytes": b"10"}
    (used,) = store.scan_iter(f"{keys.USAGE}key_a:*")
    assert store.hget(used, f"{REF} tokens") == b"150"
    found = store.hgetall(keys.COUNTERS + REF)
    assert sum(int(value) for name, value in found.items() if name.startswith(b"le:")) == 50


def test_counts_of_more_owners_than_lua_hands_on_at_once(store: redis.Redis) -> None:
    """All jobs of six hundred keys end in one script."""
    owners = [f"key_{number}" for number in range(600)]
    ids = [f"of-{owner}" for owner in owners]
    raw = messages.build("x", queue="q", priority=keys.NORMAL, model="echo", version="1", input=1)
    what: dict[str, Any] = {"list_name": LIST, "raw": raw, "ref": REF, "deadline_ms": 1, "ttl_ms": TTL_MS}
    limits = {"size": 10, "max_jobs": 1000, "max_bytes": 10**9}
    pairs = zip(ids, owners, strict=True)
    calls = [
        scripts.submit(job_id, **what, **limits, share=scripts.Share(owner), fields={"owner": owner})
        for job_id, owner in pairs
    ]
    assert {reply.status for reply in scripts.run(store, calls)} == {"accepted"}
    assert store.hlen(keys.OWNED + REF) == 1200
    ended = scripts.one(scripts.run(store, [scripts.sweep(limit=1000)])).ended
    assert sorted(ended) == sorted(ids)
    assert not store.exists(keys.ACTIVE, keys.OWNED + REF, keys.DEADLINES)
    assert counters(store) == NONE | {"failed": 600}


@pytest.mark.parametrize(("sizes", "slices"), [([2] * 64, [64]), ([2] * 65, [64, 1]), ([600_000] * 3, [1, 1, 1])])
def test_a_call_is_bounded(store: redis.Redis, sizes: list[int], slices: list[int]) -> None:
    """And a single outcome may be as large as it is."""
    ends = [end(f"j{number}", meta=b"x" * size) for number, size in enumerate(sizes)]
    assert [len(some) for some in scripts_finish._slices(ends)] == slices
    assert scripts.finish_all(store, ends, ttl_ms=TTL_MS) == [scripts.Finished(True, State.SUCCEEDED)] * len(ends)
    assert [store.strlen(keys.OUTCOME + one.job_id) for one in ends] == sizes
    assert scripts.finish_all(store, [], ttl_ms=TTL_MS) == []


def test_an_error_of_a_whole_call_is_that_of_each_of_its_jobs(store: redis.Redis) -> None:
    store.set(keys.UNACKED, "no hash", px=TTL_MS)
    replies = scripts.finish_all(store, [end("a"), end("b")], ttl_ms=TTL_MS)
    assert [type(reply) for reply in replies] == [ResponseError, ResponseError]
    store.delete(keys.UNACKED)
    assert scripts.finish_all(store, [end("a")], ttl_ms=TTL_MS) == [scripts.Finished(False, None)], "said again"
