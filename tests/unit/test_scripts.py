"""The scripts, one by one, on a real server. Every order of them: test_scripts_machine.py."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys, messages, scripts
from shared.types import State

REF = "echo@1"
LIST = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL)


def _ask(store: redis.Redis) -> None:
    """As a worker does several times a lease: without it the next look finds an outage."""
    scripts.one(scripts.run(store, [scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000)]))


def _submit(store: redis.Redis, job_id: str, **options: Any) -> scripts.Submitted:
    raw = messages.build(job_id, queue="q", priority=keys.NORMAL, model="echo", version="1", input=[])
    defaults: dict[str, Any] = {
        "list_name": LIST,
        "deadline_ms": 60_000,
        "ttl_ms": 60_000,
        "size": 10,
        "max_jobs": 100,
        "max_bytes": 1000,
        "fields": {"model": "echo", "version": "1"},
    }
    call = scripts.submit(job_id, raw=raw, ref=REF, **defaults | options)
    reply: scripts.Submitted = scripts.one(scripts.run(store, [call]))
    return reply


def test_crashes_count_only_alone_and_end_in_the_dead_letters(store: redis.Redis) -> None:
    _submit(store, "a")
    verdicts = []
    for number in range(5):
        scripts.run(store, [scripts.drain([LIST], [1], process=f"gone-{number}")])
        solo = number > 0
        call = scripts.claim(["a"], process=f"gone-{number}", worker="w", max_attempts=3, solo=solo)
        verdict = scripts.one(scripts.run(store, [call]))[0]
        verdicts.append(verdict.status)
        if verdicts[-1] == "run":  # it dies, and its lease runs out
            _ask(store)
            store.zadd(keys.LEASES, {"a": 1})
            scripts.run(store, [scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000)])
    assert verdicts == ["run", "run", "run", "run", "ended"], "one crash in company, three alone"
    assert verdict.code == "attempts_exhausted", "so that the worker's log tells of the failure"
    assert store.hget(keys.JOB + "a", "code") == b"attempts_exhausted"
    ((_, letter),) = store.xrange(keys.DEAD)
    assert (letter[b"reason"], letter[b"id"], letter[b"list"]) == (b"attempts_exhausted", b"a", LIST.encode())
    assert b'"delivery_tag":"a"' in letter[b"raw"]


def test_crashes_in_the_middle_of_a_call_are_hardly_its_fault(store: redis.Redis) -> None:
    """It is no suspect, and runs again beside others; but not for ever."""
    _submit(store, "a")
    verdicts = []
    for number in range(11):
        scripts.run(store, [scripts.drain([LIST], [1], process=f"gone-{number}")])
        call = scripts.claim(["a"], process=f"gone-{number}", worker="w", max_attempts=3, call=True)
        verdicts.append(scripts.one(scripts.run(store, [call]))[0].status)
        if verdicts[-1] == "run":
            _ask(store)
            store.zadd(keys.LEASES, {"a": 1})
            scripts.run(store, [scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000)])
            assert not store.hexists(keys.JOB + "a", "suspect")
    assert verdicts == ["run"] * 10 + ["ended"]
    assert store.hget(keys.JOB + "a", "code") == b"attempts_exhausted"


@pytest.mark.parametrize("linked", [True, False])
def test_a_linked_jobs_message_comes_again_until_it_is_acknowledged(store: redis.Redis, linked: bool) -> None:
    """Its outcome stands, and what hangs on it may not know: worker/links.py."""
    _submit(store, "a", fields={"model": "echo", "version": "1"} | ({"linked": 1} if linked else {}))
    scripts.run(store, [scripts.drain([LIST], [1], process="gone")])
    scripts.run(store, [scripts.claim(["a"], process="gone", worker="w", max_attempts=3)])
    scripts.run(store, [scripts.finish("a", tag="", state=State.SUCCEEDED, code="", meta=b"{}", ttl_ms=60_000)])
    _ask(store)
    store.zadd(keys.LEASES, {"a": 1})
    back = scripts.one(scripts.run(store, [scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000)]))
    assert (back, store.llen(LIST)) == ((["a"], 1) if linked else ([], 0))
    assert store.hget(keys.JOB + "a", "state") == b"succeeded"
    if linked:
        scripts.run(store, [scripts.drain([LIST], [1], process="next")])
        verdict = scripts.one(scripts.run(store, [scripts.claim(["a"], process="next", worker="w", max_attempts=3)]))[0]
        assert (verdict.status, verdict.state) == ("ended", State.SUCCEEDED)
        scripts.run(store, [scripts.ack(["a"], process="next")])
    assert store.hlen(keys.UNACKED) == store.llen(LIST) == 0


def test_a_crash_of_a_living_worker_is_none(store: redis.Redis) -> None:
    _submit(store, "a")
    store.set(keys.WORKER + "alive", "{}", ex=60)
    scripts.run(store, [scripts.drain([LIST], [1], process="alive")])
    scripts.run(store, [scripts.claim(["a"], process="alive", worker="w", max_attempts=3)])
    _ask(store)
    store.zadd(keys.LEASES, {"a": 1})
    scripts.run(
        store,
        [scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000), scripts.drain([LIST], [1], process="other")],
    )
    call = scripts.claim(["a"], process="other", worker="w", max_attempts=3)
    assert scripts.one(scripts.run(store, [call]))[0].status == "run"


def test_what_cannot_be_parsed_is_kept_as_a_dead_letter(store: redis.Redis) -> None:
    for raw in (b"not json", b"[]", b'{"headers": {}}', b'{"properties": {"delivery_tag": 3}, "headers": {}}'):
        store.lpush(LIST, raw)
    _submit(store, "good")
    drained = scripts.one(scripts.run(store, [scripts.drain([LIST], [10], process="p")]))
    assert len(drained.messages) == 1
    assert not drained.left
    assert {letter[b"reason"] for _, letter in store.xrange(keys.DEAD)} == {b"unparsable"}
    assert store.xlen(keys.DEAD) == 4


def test_where_the_dead_letters_are_none_no_message_is_lost(store: redis.Redis) -> None:
    """What cannot be filed as a letter goes back, what has left its list beside it is filed."""
    store.set(keys.DEAD, "no stream", ex=60)
    _submit(store, "first")
    store.lpush(LIST, b"not json")
    _submit(store, "last")
    with pytest.raises(redis.ResponseError):
        scripts.one(scripts.run(store, [scripts.drain([LIST], [10], process="p")]))
    assert store.hgetall(keys.HOLDERS) == {b"first": b"p", b"last": b"p"}
    assert store.hlen(keys.UNACKED) == store.zcard(keys.LEASES) == 2
    assert store.lrange(LIST, 0, -1) == [b"not json"]


def test_restored_messages_keep_their_order_and_go_first(store: redis.Redis) -> None:
    for job in "abcd":
        _submit(store, job)
    scripts.run(store, [scripts.drain([LIST], [2], process="p")])
    assert scripts.one(scripts.run(store, [scripts.give_back(["a", "b"], process="p")])) == ["b", "a"]
    drained = scripts.one(scripts.run(store, [scripts.drain([LIST], [9], process="p")]))
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


def test_abandon_stops_what_runs_only_where_it_says_so(store: redis.Redis) -> None:
    for job in ("alone", "shared"):
        _submit(store, job, channel="c1")
    scripts.run(store, [scripts.watch("shared", channel="c2")])
    scripts.run(store, [scripts.drain([LIST], [2], process="p")])
    claim = scripts.claim(["alone", "shared"], process="p", worker="w", max_attempts=3)
    assert [one.status for one in scripts.run(store, [claim])[0]] == ["run", "run"]
    for running, marked in ((False, [None, None]), (True, [b"1", None])):
        calls = [scripts.cancel(job, abandoned_by="c1", running=running) for job in ("alone", "shared")]
        assert scripts.run(store, calls) == [State.RUNNING] * 2
        assert [store.hget(keys.JOB + job, "canceled") for job in ("alone", "shared")] == marked


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
        assert len(scripts.one(scripts.run(store, [scripts.drain([LIST], [1], process="p")])).messages) == 1
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


# How fast a queue is served -------------------------------------------------------------------------------


def _serve(store: redis.Redis, jobs: list[str], *, ms_each: int) -> None:
    """Ends jobs so that, by the counters, each took `ms_each` while others waited."""
    counters = keys.COUNTERS + REF
    scripts.run(store, [scripts.drain([LIST], [len(jobs)], process="p")])
    for job in jobs:
        seconds, micros = store.time()
        store.hset(counters, "mark", seconds * 1000 + micros // 1000 - ms_each)
        finish = scripts.finish(job, tag=job, state=State.SUCCEEDED, code="", meta=b"{}", ttl_ms=60_000)
        assert scripts.one(scripts.run(store, [finish])).first


def test_a_deadline_that_the_queue_makes_impossible_is_refused(store: redis.Redis) -> None:
    for n in range(30):
        _submit(store, f"j{n}")
    assert _submit(store, "early", deadline_ms=1).status == "accepted", "nothing is known of its speed yet"
    _serve(store, [f"j{n}" for n in range(10)], ms_each=500)
    late = _submit(store, "late", deadline_ms=9_000)
    assert late.status == "late"
    assert 10_000 <= late.wait_ms < 11_500, "21 wait, half a second each"
    assert not store.exists(keys.JOB + "late")
    assert _submit(store, "patient", deadline_ms=12_000).status == "accepted"
    urgent = {"list_name": keys.queue_list(keys.queue_name("echo", "1"), keys.HIGH)}
    assert _submit(store, "urgent", deadline_ms=100, **urgent).status == "accepted", "it overtakes them"
    full = _submit(store, "more", max_jobs=5)
    assert (full.status, full.jobs) == ("full", 23)
    assert 11_000 <= full.wait_ms < 13_000


def test_what_workers_hold_and_run_is_waited_for_too(store: redis.Redis) -> None:
    for n in range(40):
        _submit(store, f"j{n}")
    _serve(store, [f"j{n}" for n in range(10)], ms_each=500)
    scripts.run(store, [scripts.drain([LIST], [30], process="p")])
    scripts.run(store, [scripts.claim([f"j{n}" for n in range(10, 20)], process="p", worker="w", max_attempts=3)])
    assert store.llen(LIST) == 0
    queue = keys.queue_name("echo", "1")
    orders = {step: keys.urgent_lists(queue, step) for step in keys.PRIORITIES}
    late = _submit(store, "late", deadline_ms=9_000, ahead=orders[keys.NORMAL])
    assert late.status == "late"
    assert 14_000 < late.wait_ms < 17_000, "10 run, 20 are held"
    urgent = {"list_name": keys.queue_list(queue, keys.HIGH), "ahead": orders[keys.HIGH]}
    assert _submit(store, "urgent", deadline_ms=9_000, **urgent).status == "accepted", (
        "only what runs is surely before it"
    )


def test_what_has_ended_in_the_lists_is_not_waited_for(store: redis.Redis) -> None:
    for n in range(30):
        _submit(store, f"j{n}")
    _serve(store, [f"j{n}" for n in range(10)], ms_each=500)
    scripts.run(store, [scripts.cancel(f"j{n}") for n in range(10, 29)])
    assert store.llen(LIST) == 20
    assert _submit(store, "late", deadline_ms=900).status == "accepted", "one job is before it"


def test_an_idle_queue_has_no_speed(store: redis.Redis) -> None:
    for n in range(10):
        _submit(store, f"j{n}")
    _serve(store, [f"j{n}" for n in range(10)], ms_each=500)
    assert store.hmget(keys.COUNTERS + REF, "mark", "busy_ms", "served") == [None] * 3
    for n in range(10):
        _submit(store, f"k{n}")
    assert _submit(store, "k", deadline_ms=1).status == "accepted"


def test_time_without_a_worker_is_no_measure_of_its_speed(store: redis.Redis) -> None:
    for n in range(60):
        _submit(store, f"j{n}")
    _serve(store, [f"j{n}" for n in range(20)], ms_each=100)
    long_ago = int(store.time()[0]) * 1000 - 3_600_000
    store.hset(keys.COUNTERS + REF, "mark", long_ago)
    scripts.run(store, [scripts.drain([LIST], [1], process="p")])
    scripts.run(store, [scripts.claim(["j20"], process="p", worker="w", max_attempts=3)])
    assert int(store.hget(keys.COUNTERS + REF, "mark")) >= int(store.time()[0]) * 1000 - 11_000


# Outages, newer messages, plain producers' clocks ---------------------------------------------------------


def test_after_an_outage_all_leases_begin_anew(store: redis.Redis) -> None:
    _submit(store, "a")
    scripts.run(store, [scripts.drain([LIST], [1], process="p")])
    store.zadd(keys.LEASES, {"a": 1})
    look = scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000)
    assert scripts.one(scripts.run(store, [look])) == [], "nobody has asked for long: its holder could not renew either"
    assert store.zscore(keys.LEASES, "a") > 1
    store.zadd(keys.LEASES, {"a": 1})
    assert scripts.one(scripts.run(store, [look])) == ["a"], "now it has had its chance"


def test_a_newer_message_is_parked_for_newer_workers(store: redis.Redis) -> None:
    raw = messages.build("new", queue="q", priority=keys.NORMAL, model="echo", version="1", input=[])
    newer = raw.replace(b'"ml":1', b'"ml":2')
    assert newer != raw
    store.lpush(LIST, newer)
    _submit(store, "a")
    queues = [keys.queue_name("echo", "1")]
    old, new = keys.drained_lists(queues, 1), keys.drained_lists(queues, 2)
    drained = scripts.one(scripts.run(store, [scripts.drain(old, [9] * len(old), process="p", version=1)]))
    assert [b'"delivery_tag":"a"' in raw for _, raw in drained.messages] == [True]
    drained = scripts.one(scripts.run(store, [scripts.drain(new, [9] * len(new), process="p", version=2)]))
    assert drained.messages == [(f"{LIST}{keys.PARKED}2", newer)]
    assert keys.queue_of(drained.messages[0][0]) == queues[0]
    store.hdel(keys.UNACKED, "new")
    store.zrem(keys.LEASES, "new")
    assert scripts.one(scripts.run(store, [scripts.give_back(["a"], process="p")])) == ["a"]


def test_a_parked_list_does_not_stay_for_ever(store: redis.Redis) -> None:
    raw = messages.build("new", queue="q", priority=keys.NORMAL, model="echo", version="1", input=[])
    store.lpush(LIST, raw.replace(b'"ml":1', b'"ml":7'))
    scripts.run(store, [scripts.drain([LIST], [9], process="p")])
    assert store.ttl(f"{LIST}{keys.PARKED}7") > keys.MAX_DEADLINE_S


def test_lost_records_are_mended(store: redis.Redis) -> None:
    for job in ("a", "b", "c"):
        _submit(store, job)
    store.delete(keys.JOB + "a")
    store.zadd(keys.DEADLINES, {"a": 1})
    swept = scripts.one(scripts.run(store, [scripts.sweep({REF: "ml.echo.1", "other@1": "ml.other.1"})]))
    assert (swept.ended, swept.strays) == ([], 1)
    assert store.hmget(keys.COUNTERS + REF, "queued", "running", "bytes") == [b"2", b"0", b"20"]
    assert scripts.one(scripts.run(store, [scripts.sweep({REF: "ml.echo.1"})])).strays == 0


def test_a_sign_of_life_passes_a_full_store(tmp_path: Any) -> None:
    with EmbeddedServer(tmp_path / "redis") as own, redis.Redis.from_url(own.url) as store:
        _submit(store, "a")
        scripts.run(store, [scripts.drain([LIST], [1], process="p")])
        store.config_set("maxmemory", "1")
        call = scripts.renew(["a", "gone"], process="p", sign=b"{}", sign_ms=1000)
        assert scripts.one(scripts.run(store, [call])) == ["gone"]
        assert store.get(keys.WORKER + "p") == b"{}"
        assert store.zrange(keys.WORKERS, 0, -1) == [b"p"]
        assert scripts.one(scripts.run(store, [scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000)])) == []


def test_latencies_are_counted_by_their_bounds(store: redis.Redis) -> None:
    took_ms = (20, 400, 50_000, 60_001, 600_000)  # a few milliseconds pass meanwhile
    for n, ms in enumerate(took_ms):
        _submit(store, f"j{n}")
        store.hincrby(keys.JOB + f"j{n}", "created_at", -ms)
        finish = scripts.finish(f"j{n}", tag="", state=State.SUCCEEDED, code="", meta=b"{}", ttl_ms=60_000)
        scripts.run(store, [finish, finish])
    scripts.run(store, [scripts.cancel(_submit(store, "canceled").job_id)])
    counters = {name.decode(): int(n) for name, n in store.hgetall(keys.COUNTERS + REF).items()}
    found = {name.removeprefix("le:"): n for name, n in counters.items() if name.startswith("le:")}
    assert sum(found.values()) == len(took_ms)
    assert (found["500"], found["60000"], found["inf"]) == (1, 1, 2)
    assert 0 <= counters["latency_ms"] - sum(took_ms) < 1000


# Who holds a message --------------------------------------------------------------------------------------


def test_what_another_holds_is_neither_run_nor_renewed_nor_given_back(store: redis.Redis) -> None:
    _submit(store, "a")
    _ask(store)
    scripts.run(store, [scripts.drain([LIST], [1], process="one")])
    store.zadd(keys.LEASES, {"a": 1})
    look = scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000)
    scripts.run(store, [look, scripts.drain([LIST], [1], process="two")])
    store.zadd(keys.LEASES, {"a": 7})
    claim, renew, back, ack = scripts.run(
        store,
        [
            scripts.claim(["a"], process="one", worker="w", max_attempts=3),
            scripts.renew(["a"], process="one", sign=b"{}", sign_ms=60_000),
            scripts.give_back(["a"], process="one"),
            scripts.ack(["a"], process="one"),
        ],
    )
    assert (claim[0].status, renew, back, ack) == ("lost", ["a"], [], 0)
    assert store.zscore(keys.LEASES, "a") == 7
    assert store.hget(keys.JOB + "a", "state") == b"queued"
    claim = scripts.claim(["a"], process="two", worker="w", max_attempts=3)
    assert scripts.one(scripts.run(store, [claim]))[0].status == "run"


@pytest.mark.parametrize("way", ["given-back", "expired"])
def test_what_was_canceled_while_it_ran_does_not_run_again(store: redis.Redis, way: str) -> None:
    _submit(store, "a")
    _ask(store)
    scripts.run(store, [scripts.drain([LIST], [1], process="p")])
    scripts.run(store, [scripts.claim(["a"], process="p", worker="w", max_attempts=3), scripts.cancel("a")])
    if way == "expired":
        store.zadd(keys.LEASES, {"a": 1})
        back = scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000)
    else:
        back = scripts.give_back(["a"], process="p")
    assert scripts.one(scripts.run(store, [back])) == []
    assert store.hget(keys.JOB + "a", "state") == b"canceled"
    assert not store.exists(LIST, keys.UNACKED, keys.HOLDERS, keys.LEASES)


def test_lists_of_ended_jobs_do_not_grow(store: redis.Redis) -> None:
    sweep = scripts.sweep({REF: keys.queue_name("echo", "1")})
    low = keys.queue_list(keys.queue_name("echo", "1"), keys.LOW)
    limits = {"max_jobs": 10_000, "max_bytes": 10_000_000}
    for n in range(1200):
        _submit(store, f"j{n}", list_name=LIST if n % 2 else low, **limits)
    for n in range(0, 1190):
        scripts.run(store, [scripts.cancel(f"j{n}")])
    scripts.run(store, [sweep])
    left = [orjson.loads(raw)["properties"]["delivery_tag"] for raw in store.lrange(LIST, 0, -1)]
    assert left == ["j1199", "j1197", "j1195", "j1193", "j1191"], "in their order"
    assert store.llen(low) == 5
    for n in range(1000):
        _submit(store, f"k{n}", **limits)
    scripts.run(store, [*(scripts.cancel(f"k{n}") for n in range(900)), sweep])
    assert store.llen(LIST) == 1005, "a few of them are no burden"


def test_what_a_job_waited_counts_from_when_it_was_due(store: redis.Redis) -> None:
    def claimed(job_id: str) -> scripts.Verdict:
        scripts.run(store, [scripts.drain([LIST], [1], process="p")])
        call = scripts.claim([job_id], process="p", worker="w", max_attempts=3)
        verdict: scripts.Verdict = scripts.one(scripts.run(store, [call]))[0]
        return verdict

    _submit(store, "a")
    store.hincrby(keys.JOB + "a", "created_at", -5000)
    first = claimed("a")
    assert 5000 <= first.started_at - first.queued_at < 20_000
    assert claimed("a") == first, "claimed again by the same worker: before its next batch"

    seconds, microseconds = store.time()
    start_at = seconds * 1000 + microseconds // 1000 + 60_000
    raw = messages.build("b", queue="q", priority=keys.NORMAL, model="echo", version="1", input=1)
    adopt = scripts.adopt(
        "b",
        "b",
        list_name=LIST,
        raw=raw,
        ref=REF,
        deadline_ms=90_000,
        ttl_ms=1000,
        size=1,
        start_at=start_at,
        fields={},
    )
    assert scripts.one(scripts.run(store, [adopt])) == "adopted"
    store.hincrby(keys.JOB + "b", "created_at", -50_000)
    store.zadd(keys.DUE, {"b": 1})
    _ask(store)
    due = claimed("b")
    assert due.status == "run"
    assert due.started_at - due.queued_at < 20_000


def test_how_long_the_oldest_waits(store: redis.Redis) -> None:
    high = keys.queue_list(keys.queue_name("echo", "1"), keys.HIGH)
    groups = [[high, LIST], ["ml.nobody.1"]]

    def waits() -> list[float]:
        found: list[float] = scripts.one(scripts.run(store, [scripts.oldest(groups)]))
        return found

    assert waits() == [0, 0]
    for age, job_id in ((300, "a"), (200, "b"), (100, "c")):
        _submit(store, job_id)
        store.hincrby(keys.JOB + job_id, "created_at", -age * 1000)
    _submit(store, "urgent", list_name=high)
    store.hincrby(keys.JOB + "urgent", "created_at", -150_000)
    assert 300 <= waits()[0] < 320
    scripts.run(store, [scripts.cancel("a")])
    assert 200 <= waits()[0] < 220, "a canceled one is passed over"
    scripts.run(store, [scripts.drain([LIST], [2], process="p")])
    assert 150 <= waits()[0] < 170, "a worker has taken it: the oldest of all lists counts"
    store.rpush(LIST, b"\xff not JSON", b'{"headers": null}')
    assert 150 <= waits()[0] < 170
    assert waits()[1] == 0
