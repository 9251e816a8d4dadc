"""Fairness between keys, on a real server: lanes take turns, by the scripts that submit and drain."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import orjson
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import keys, messages, scripts

REF = "echo@1"
LIST = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL)


def submit(job_id: str, owner: str, *, weight: int = 1, items: int = 1, **more: int) -> scripts.Call[scripts.Submitted]:
    raw = messages.build(job_id, queue="q", priority=keys.NORMAL, model="echo", version="1", input=owner)
    options = {"deadline_ms": 3_600_000, "ttl_ms": 60_000, "size": 1, "max_jobs": 1_000_000, "max_bytes": 10**9} | more
    share = scripts.Share("" if owner == keys.ANONYMOUS else owner, weight)
    fields: dict[str, str | int] = {"owner": owner, "items": items, "weight": weight}
    return scripts.submit(job_id, list_name=LIST, raw=raw, ref=REF, share=share, fields=fields, **options)


def drain(store: redis.Redis, room: int) -> list[str]:
    """Who was taken, in order; their messages are forgotten, as after a finish."""
    drained = scripts.one(scripts.run(store, [scripts.drain([LIST], [room], process="p")]))
    taken = [orjson.loads(raw)["headers"] for _, raw in drained.messages]
    scripts.run(store, [scripts.ack([headers["id"] for headers in taken], process="p")])
    return [headers["id"].partition("/")[0] for headers in taken]


NUMBERS = itertools.count()


def fill(store: redis.Redis, owner: str, count: int, *, weight: int = 1, items: int = 1) -> None:
    for start in range(0, count, 2000):
        numbers = range(start, min(count, start + 2000))
        replies = scripts.run(
            store, [submit(f"{owner}/{next(NUMBERS)}", owner, weight=weight, items=items) for _ in numbers]
        )
        assert {reply.status for reply in replies} == {"accepted"}


@pytest.mark.parametrize("flood", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_flood_does_not_starve_the_lone_jobs_of_two_other_keys(store: redis.Redis, flood: int) -> None:
    """So many of one key wait, as a worker takes 128 at a time; the others' jobs are among the next it takes."""
    fill(store, "flood", flood)
    assert Counter(drain(store, 128)) == {"flood": 128}
    fill(store, "one", 1)
    fill(store, "few", 50)
    taken = drain(store, 128)
    assert Counter(taken) == {"flood": 77, "few": 50, "one": 1}
    assert taken.index("one") <= 4, "within the first round"
    assert taken[:99].count("few") >= 48, "one after the other"
    for number in range(100):  # one that comes back again and again takes its turn, and no more than that
        scripts.run(store, [submit(f"one/again-{number}", "one")])
        assert Counter(drain(store, 3))["one"] == 1
    store.flushall()


def test_shares_are_by_items_and_weight(store: redis.Redis) -> None:
    fill(store, "large", 200, items=100)
    fill(store, "small", 3000)
    fill(store, "heavy", 3000, weight=3)
    taken = Counter(drain(store, 2000))
    assert abs(taken["large"] * 100 - taken["small"]) <= 200, taken
    assert abs(taken["heavy"] - 3 * taken["small"]) <= 4, taken


def test_large_jobs_one_after_the_other_pay_for_each(store: redis.Redis) -> None:
    """Who has nothing waiting between its jobs of 2,048 items still owes for the last when the next comes."""
    fill(store, "many", 3000)
    fill(store, "large", 1, items=2048)
    before = Counter(drain(store, 10))
    assert before["large"] == 1
    scripts.run(store, [submit("large/next", "large", items=2048)])
    assert Counter(drain(store, 1500)) == {"many": 1500}
    assert Counter(drain(store, 700))["large"] == 1


def test_jobs_without_a_key_take_turns_too(store: redis.Redis) -> None:
    fill(store, keys.ANONYMOUS, 500)
    fill(store, "key", 100)
    taken = drain(store, 100)
    assert Counter(taken) == {keys.ANONYMOUS: 50, "key": 50}
    assert drain(store, 1000).count("key") == 50
    assert not store.exists(keys.TURNS + LIST), "nobody waits: nothing is left"
    fill(store, keys.ANONYMOUS, 10)
    assert Counter(drain(store, 100)) == {keys.ANONYMOUS: 10}


def test_what_goes_back_goes_to_the_near_end_of_its_own_lane(store: redis.Redis) -> None:
    scripts.run(store, [submit(f"{owner}/{n}", owner) for owner in "ab" for n in range(3)])
    drained = scripts.one(scripts.run(store, [scripts.drain([LIST], [2], process="p")]))
    tags = [orjson.loads(raw)["headers"]["id"] for _, raw in drained.messages]
    assert scripts.one(scripts.run(store, [scripts.give_back(tags, process="p")])) == tags[::-1]
    assert store.llen(LIST) == 0
    again = scripts.one(scripts.run(store, [scripts.drain([LIST], [6], process="p")]))
    order = [orjson.loads(raw)["headers"]["id"] for _, raw in again.messages]
    for owner in "ab":
        assert [job for job in order if job.startswith(owner)] == sorted(job for job in order if job.startswith(owner))


def test_a_worker_is_woken_by_a_job_of_any_lane(store: redis.Redis, redis_url: str) -> None:
    """Tracking tells of a new lane, and of one that was empty while others wait."""
    wake = redis.Redis.from_url(redis_url, protocol=3).client()
    drainer = redis.Redis.from_url(redis_url).client()
    wake_id = wake.execute_command("CLIENT", "ID")
    drainer.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", wake_id, "NOLOOP")
    listener = wake.connection
    listener.send_command("SUBSCRIBE", "__redis__:invalidate")
    listener.read_response(push_request=True)

    def woken_by(change: Callable[[], object], room: int = 10) -> bool:
        scripts.run_on(drainer, scripts.drain([LIST], [room], process="p"))
        while listener.can_read(timeout=0):
            listener.read_response(push_request=True)
        change()
        return bool(listener.can_read(timeout=5))

    assert woken_by(lambda: fill(store, "a", 1))
    assert woken_by(lambda: fill(store, "b", 1))
    assert woken_by(lambda: fill(store, keys.ANONYMOUS, 1))
    assert woken_by(lambda: scripts.run(store, [submit("a/more", "a")]))
    # It took just what waited: whoever comes next, the one before or another, wakes it.
    assert woken_by(lambda: fill(store, "c", 1), room=1)
    assert woken_by(lambda: fill(store, "c", 1), room=1)
    assert woken_by(lambda: fill(store, "d", 1), room=1)
    wake.close()
    drainer.close()


def test_a_flood_of_others_makes_no_deadline_impossible(store: redis.Redis) -> None:
    fill(store, "flood", 5000)
    store.hset(keys.COUNTERS + REF, mapping={"mark": 1, "busy_ms": 10_000, "served": 100})  # ten a second
    late = scripts.one(scripts.run(store, [submit("flood/late", "flood", deadline_ms=60_000)]))
    assert (late.status, late.wait_ms) == ("late", 500_000)
    assert scripts.one(scripts.run(store, [submit("lone/1", "lone", deadline_ms=60_000)])).status == "accepted"
    fill(store, "lone", 700)
    assert scripts.one(scripts.run(store, [submit("lone/late", "lone", deadline_ms=60_000)])).status == "late"


def test_ended_jobs_do_not_pile_up_in_lanes(store: redis.Redis) -> None:
    fill(store, "a", 1500)
    fill(store, "b", 3)
    ids = [key.decode().removeprefix(keys.JOB) for key in store.scan_iter(f"{keys.JOB}a/*", count=1000)]
    scripts.run(store, [scripts.cancel(job_id) for job_id in ids])
    scripts.run(store, [scripts.sweep({REF: keys.queue_name("echo", "1")})])
    assert store.llen(keys.lane(LIST, "a")) == 0
    assert store.zscore(keys.TURNS + LIST, "b") is not None
    assert Counter(drain(store, 10)) == {"b": 3}


def test_the_oldest_of_a_queue_may_lie_in_a_lane(store: redis.Redis) -> None:
    fill(store, "a", 1)
    (job,) = store.scan_iter(f"{keys.JOB}a/*")
    store.hincrby(job.decode(), "created_at", -5000)
    fill(store, keys.ANONYMOUS, 1)
    assert scripts.one(scripts.run(store, [scripts.oldest([[LIST]])]))[0] >= 5


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 20), st.integers(1, 5)) | st.integers(1, 12), max_size=25
    )
)
def test_nobody_who_waits_is_passed_over_for_long(store: redis.Redis, steps: list[tuple[str, int, int] | int]) -> None:
    """Whatever comes and goes: between two jobs of one owner no other that waits all the while is served more than its
    round and one job."""
    store.flushall()
    made, weights = Counter[str](), {"a": 1, "b": 2, "c": 5}
    waiting: Counter[str] = Counter()
    since: dict[str, Counter[str]] = {}
    for step in steps:
        if isinstance(step, tuple):
            owner, count, items = step
            calls = [
                submit(f"{owner}/{made[owner] + n}", owner, weight=weights[owner], items=items) for n in range(count)
            ]
            scripts.run(store, calls)
            made[owner] += count
            waiting[owner] += count
            since.setdefault(owner, Counter())
            continue
        taken = drain(store, step)
        assert len(taken) == min(step, waiting.total()), "work is never held back"
        for owner in taken:
            waiting[owner] -= 1
            for other, passed in since.items():
                if other != owner and waiting[other]:
                    passed[owner] += 1
            since[owner] = Counter()
            if not waiting[owner]:
                del since[owner]
        for owner, passed in since.items():
            for other, count in passed.items():
                # Items are 1 to 5: at most (5 / weight + 1) of a turn passes, in jobs of at least one item.
                assert count <= (5 / weights[owner] + 1 + 5) * weights[other] + 5, (owner, other, count)


@pytest.mark.parametrize("owner", [keys.ANONYMOUS, keys.CELERY])
def test_who_has_no_key_has_no_lane(store: redis.Redis, owner: str) -> None:
    assert keys.lane(LIST, owner) == LIST
    scripts.run(store, [submit("x/1", owner)])
    assert store.llen(LIST) == 1
    assert not store.exists(keys.ACTIVE, keys.OWNED + REF, keys.TURNS + LIST)


def test_nothing_is_left_of_turns_when_all_have_ended(store: redis.Redis) -> None:
    fill(store, "a", 1500)
    ids = [key.decode().removeprefix(keys.JOB) for key in store.scan_iter(f"{keys.JOB}a/*", count=1000)]
    scripts.run(store, [scripts.cancel(job_id) for job_id in ids])
    scripts.run(store, [scripts.sweep({REF: keys.queue_name("echo", "1")})])
    assert not store.exists(keys.TURNS + LIST, keys.OWNED + REF, keys.ACTIVE, keys.lane(LIST, "a"))
