"""The scripts of webhooks, one by one, on a real server. Every order of them: test_webhooks_machine.py."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import redis

from shared import keys, messages, scripts
from shared.scripts_webhooks import Due, Taken, backlog, deliver, delivered, redeliver, resecret
from shared.types import State
from shared.webhooks import delivery_id
from tests.conftest import wait_until

LIST = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL)
TTL_MS = 60_000
ALL = ["running", "succeeded", "failed", "canceled"]


def run(store: redis.Redis, call: scripts.Call[Any]) -> Any:
    return scripts.one(scripts.run(store, [call]))


def submit(store: redis.Redis, job: str, host: str = "a.example", events: list[str] | None = None, **more: Any) -> None:
    hook = orjson.dumps({"url": f"http://{host}/", "host": host, "events": ALL[1:] if events is None else events})
    raw = messages.build(job, queue="q", priority=keys.NORMAL, model="echo", version="1", input=[])
    fields = {"model": "echo", "version": "1", "owner": "key_a", "webhook": hook.decode(), "request_id": "r", **more}
    call = scripts.submit(
        job,
        list_name=LIST,
        raw=raw,
        ref="echo@1",
        deadline_ms=60_000,
        ttl_ms=TTL_MS,
        size=1,
        max_jobs=5000,
        max_bytes=100_000,
        fields=fields,
    )
    assert run(store, call).status == "accepted"


def finish(store: redis.Redis, job: str, state: State = State.SUCCEEDED) -> None:
    run(store, scripts.finish(job, tag="", state=state, code="", meta=b'{"status":"x"}', ttl_ms=1000))


def ended(store: redis.Redis, job: str, host: str = "a.example") -> str:
    submit(store, job, host)
    finish(store, job)
    return delivery_id(job, "succeeded")


def take(
    store: redis.Redis,
    *,
    lease_ms: int = 60_000,
    most: int = 100,
    each: int = 100,
    holder: str = "t",
    rooms: Any = None,
) -> list[Taken]:
    due: Due = run(store, deliver(lease_ms=lease_ms, most=most, of_one_host=each, holder=holder, rooms=rooms))
    return due.taken


def state(store: redis.Redis, delivery: str) -> str:
    return (store.hget(keys.HOOK + delivery, "state") or b"").decode()


def claim(store: redis.Redis, *jobs: str) -> None:
    run(store, scripts.drain([LIST], [len(jobs)], process="p"))
    run(store, scripts.claim(jobs, process="p", worker="w", max_attempts=3))


def test_only_what_was_asked_for_becomes_due(store: redis.Redis) -> None:
    submit(store, "one", events=["running", "failed"])
    submit(store, "two", events=["succeeded"])
    submit(store, "three", events=["canceled"])
    claim(store, "one", "two", "three")
    run(store, scripts.cancel("three"))
    finish(store, "one")
    finish(store, "two")
    finish(store, "three")
    assert sorted(one.id for one in take(store)) == ["msg_one_running", "msg_three_canceled", "msg_two_succeeded"]


def test_a_second_start_is_not_told(store: redis.Redis) -> None:
    submit(store, "a", events=["running"])
    claim(store, "a")
    (first,) = take(store)
    assert run(store, delivered(first, "delivered", status=200)) == "delivered"
    run(store, scripts.give_back(["a"], process="p"))
    claim(store, "a")
    assert store.hget(keys.JOB + "a", "attempt") == b"2"
    assert take(store) == []


def test_what_is_taken_knows_all_that_an_attempt_needs(store: redis.Redis) -> None:
    submit(store, "a", traceparent="00-1", tracestate="x=y")
    finish(store, "a")
    (one,) = take(store, holder="mine")
    assert (one.id, one.holder, one.kind, one.of, one.event) == ("msg_a_succeeded", "mine", "job", "a", "succeeded")
    assert (one.owner, one.url, one.host, one.tries, one.body) == ("key_a", "http://a.example/", "a.example", 0, b"")
    assert (one.request_id, one.traceparent, one.tracestate) == ("r", "00-1", "x=y")
    assert one.at == int(store.hget(keys.JOB + "a", "finished_at") or 0)


@pytest.mark.parametrize(
    "hook",
    [
        "",
        "x",
        "5",
        "[]",
        "{}",
        '{"events": 5}',
        '{"events": ["succeeded"]}',
        '{"events": ["succeeded"], "url": 5, "host": []}',
    ],
)
def test_a_webhook_that_is_none_keeps_no_job_from_its_end(store: redis.Redis, hook: str) -> None:
    submit(store, "a", webhook=hook)
    finish(store, "a")
    assert store.hget(keys.JOB + "a", "state") == b"succeeded"
    assert take(store) == []


def test_the_job_lives_until_its_body_is_made_and_then_as_long_as_any(store: redis.Redis) -> None:
    delivery = ended(store, "a")
    for key in (keys.JOB + "a", keys.OUTCOME + "a"):
        assert store.pttl(key) > TTL_MS + keys.HOOK_TTL_MS - 10_000
    (one,) = take(store)
    run(store, delivered(one, "retry", error="no", wait_ms=5000, body=b"body"))
    for key in (keys.JOB + "a", keys.OUTCOME + "a"):
        assert TTL_MS - 10_000 < store.pttl(key) <= TTL_MS
    assert store.hget(keys.HOOK + delivery, "body") == b"body"
    assert keys.HOOK_TTL_MS < store.pttl(keys.HOOK + delivery) <= keys.HOOK_TTL_MS + 5000


def test_a_job_whose_event_nobody_wants_lives_as_ever(store: redis.Redis) -> None:
    submit(store, "a", events=["failed"])
    finish(store, "a")
    assert TTL_MS - 10_000 < store.pttl(keys.JOB + "a") <= TTL_MS


def test_a_lease_that_runs_out_is_taken_by_another_whose_word_counts(store: redis.Redis) -> None:
    delivery = ended(store, "a")
    (first,) = take(store, lease_ms=1, holder="first")
    wait_until(lambda: run(store, backlog()).due == 1, what="the lease is over")
    (second,) = take(store, holder="second")
    assert run(store, delivered(first, "retry", error="late", wait_ms=0, body=b"x")) == "due"
    assert take(store) == [], "the second has it"
    assert run(store, delivered(second, "retry", error="no", wait_ms=60_000, body=b"y")) == "due"
    assert store.hget(keys.HOOK + delivery, "body") == b"y"
    assert run(store, delivered(first, "delivered", status=200)) == "delivered", "a success is one, however late"
    assert run(store, backlog()).waiting == 0
    log = (store.hget(keys.HOOK + delivery, "log") or b"").splitlines()
    assert [orjson.loads(line)["error"] for line in log] == ["late", "no", None]


def test_what_was_not_tried_comes_back(store: redis.Redis) -> None:
    delivery = ended(store, "a")
    (one,) = take(store)
    assert run(store, delivered(one, "back", wait_ms=0)) == "due"
    (again,) = take(store)
    assert (again.tries, store.hexists(keys.HOOK + delivery, "log")) == (0, False)
    assert store.hgetall(keys.HOOK_COUNTS) == {}


def test_a_slow_host_keeps_nobody_waiting(store: redis.Redis) -> None:
    for n in range(300):
        ended(store, f"slow-{n}", "slow.example")
    ended(store, "quick", "quick.example")
    assert [one.host for one in take(store, most=10, each=2, rooms={"slow.example": 0})] == ["quick.example"]
    assert [one.host for one in take(store, most=10, each=2)] == ["slow.example"] * 2
    assert take(store, most=0) == []


def test_hosts_without_room_do_not_hide_the_others(store: redis.Redis) -> None:
    full = [f"h{n}.example" for n in range(50)]
    for n, host in enumerate(full):
        ended(store, f"j{n}", host)
    ended(store, "last", "last.example")
    assert [one.of for one in take(store, most=1, each=1, rooms=dict.fromkeys(full, 0))] == ["last"]


def test_a_receiver_that_has_gone_is_left_alone_until_a_redelivery_succeeds(store: redis.Redis) -> None:
    first, second = ended(store, "a"), ended(store, "b")
    (one,) = take(store, most=1)
    assert run(store, delivered(one, "disabled", status=410, body=b"x")) == "disabled"
    assert take(store) == []
    assert (state(store, first), state(store, second)) == ("disabled", "disabled")
    ended(store, "of-another-url", "b.example")
    assert [one.of for one in take(store)] == ["of-another-url"]
    assert run(store, redeliver([second])) == ["due"]
    (again,) = take(store)
    assert run(store, delivered(again, "delivered", status=200)) == "delivered"
    third = ended(store, "c")
    assert [one.id for one in take(store)] == [third]


def test_redelivery(store: redis.Redis) -> None:
    delivery = ended(store, "a")
    assert run(store, redeliver(["msg_never", delivery])) == ["", "due"]
    (one,) = take(store)
    assert run(store, redeliver([delivery])) == ["due"]
    assert take(store) == [], "it is under way"
    run(store, delivered(one, "failed", status=500, body=b"x"))
    assert run(store, redeliver([delivery])) == ["due"]
    store.delete(keys.JOB + "a", keys.OUTCOME + "a")
    (again,) = take(store)
    assert (again.tries, again.body) == (0, b"x"), "the same bytes, a fresh schedule"
    run(store, delivered(again, "delivered", status=200))
    assert run(store, redeliver([delivery])) == ["gone"]


def test_one_that_is_to_come_again_is_redelivered_at_once(store: redis.Redis) -> None:
    delivery = ended(store, "a")
    (one,) = take(store)
    run(store, delivered(one, "retry", status=500, wait_ms=3_600_000, body=b"x"))
    assert take(store) == []
    run(store, redeliver([delivery]))
    assert [(one.tries, one.body) for one in take(store)] == [(0, b"x")]


def test_the_log_keeps_the_last_twenty(store: redis.Redis) -> None:
    delivery = ended(store, "a")
    for n in range(25):
        (one,) = take(store)
        run(store, delivered(one, "retry", status=500 + n, wait_ms=0, body=b"x"))
        assert one.tries == n
    log = [orjson.loads(line) for line in (store.hget(keys.HOOK + delivery, "log") or b"").splitlines()]
    assert [line["status"] for line in log] == list(range(505, 525))
    assert store.hgetall(keys.HOOK_COUNTS) == {b"retry": b"25"}


def test_a_heap_of_expired_ones_goes(store: redis.Redis) -> None:
    for n in range(5):
        ended(store, f"a{n}")
    store.delete(*(keys.HOOK + delivery_id(f"a{n}", "succeeded") for n in range(5)))
    ended(store, "alive", "b.example")
    assert [one.of for one in take(store)] == ["alive"]
    assert store.zrange(keys.WEBHOOKS, 0, -1) == [b"b.example"]


def test_one_behind_those_that_are_gone_is_not_left_waiting(store: redis.Redis) -> None:
    for n in range(3):
        store.delete(keys.HOOK + ended(store, f"a{n}", f"gone-{n}.example"))
    ended(store, "alive", "last.example")
    waits: list[int | None] = []
    taken: list[Taken] = []
    while not taken:
        due: Due = run(store, deliver(lease_ms=1000, most=1, of_one_host=1, holder="t"))
        waits.append(due.wait_ms)
        taken = due.taken
    assert (waits[:-1], [one.of for one in taken]) == ([0] * 3, ["alive"])


def test_a_sweep_forgets_what_has_expired_while_nobody_delivered(store: redis.Redis) -> None:
    old, new = ended(store, "old"), ended(store, "new")
    store.zincrby(keys.HOST + "a.example", -keys.HOOK_TTL_MS - 1000, old)
    store.zincrby(keys.WEBHOOKS, -keys.HOOK_TTL_MS - 1000, "a.example")
    run(store, scripts.sweep())
    assert store.zrange(keys.HOST + "a.example", 0, -1) == [new.encode()]
    assert store.zscore(keys.WEBHOOKS, "a.example") == store.zscore(keys.HOST + "a.example", new)


def test_the_backlog(store: redis.Redis) -> None:
    assert run(store, backlog()).waiting == 0
    ended(store, "a")
    ended(store, "b", "b.example")
    (one, *_) = take(store, most=1)
    run(store, delivered(one, "retry", wait_ms=60_000, body=b"x"))
    wait_until(lambda: run(store, backlog()).oldest_s > 0, what="it grows old")
    seen = run(store, backlog())
    assert (seen.waiting, seen.due) == (2, 1)


def test_when_the_next_is_due_is_told(store: redis.Redis) -> None:
    def wait_ms() -> int | None:
        due: Due = run(store, deliver(lease_ms=1000, most=9, of_one_host=9, holder="t"))
        return due.wait_ms

    assert wait_ms() is None
    ended(store, "a")
    (one,) = take(store)
    run(store, delivered(one, "retry", wait_ms=30_000, body=b"x"))
    assert 20_000 < (wait_ms() or 0) <= 30_000


def test_a_caller_that_has_gone_cancels_no_job_with_a_webhook(store: redis.Redis) -> None:
    submit(store, "a", waiters="c")
    run(store, scripts.cancel("a", abandoned_by="c"))
    assert store.hget(keys.JOB + "a", "state") == b"queued"


def test_of_two_new_secrets_one_stands(store: redis.Redis) -> None:
    assert run(store, resecret("o", b"", b"1"))
    assert not run(store, resecret("o", b"", b"2"))
    assert run(store, resecret("o", b"1", b"3"))
    assert store.hgetall(keys.HOOK_SECRETS) == {b"o": b"3"}


def test_a_full_store_still_takes_what_webhooks_need(store: redis.Redis) -> None:
    delivery = ended(store, "a")
    store.config_set("maxmemory", "1")
    try:
        (one,) = take(store)
        run(store, delivered(one, "retry", status=500, wait_ms=0, body=b"x" * 1000))
        assert run(store, redeliver([delivery])) == ["due"]
        assert run(store, resecret("o", b"", b"1"))
        assert run(store, backlog()).waiting == 1
    finally:
        store.config_set("maxmemory", "0")
