"""Dead letters in the scripts, on a real server: what is kept and for how long, and the one job that a retry makes."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys, messages, scripts
from shared.types import State
from tests.conftest import wait_until

REF = "echo@1"
QUEUE = keys.queue_name("echo", "1")
LIST = keys.queue_list(QUEUE, keys.NORMAL)
RESULT_MS, DEAD_MS, DEADLINE_MS = 60_000, 600_000, 30_000


def run(store: redis.Redis, call: scripts.Call[Any]) -> Any:
    return scripts.one(scripts.run(store, [call]))


def message(job_id: str, payloads: list[str] | None = None) -> bytes:
    return messages.build(
        job_id, queue=QUEUE, priority=keys.NORMAL, model="echo", version="1", input=None, payloads=payloads
    )


def submit(store: redis.Redis, job_id: str, *payloads: bytes) -> None:
    for number, payload in enumerate(payloads):
        store.set(keys.payload_key(job_id, number), payload, px=DEADLINE_MS + RESULT_MS)
    fields = {"model": "echo", "version": "1", "payloads": len(payloads), "dead_ttl_ms": DEAD_MS}
    fields |= {"labels": '{"a":"b"}', "owner": "me", "timeout_ms": 7000}
    call = scripts.submit(
        job_id,
        list_name=LIST,
        raw=message(job_id, [f"/{n}" for n in range(len(payloads))]),
        ref=REF,
        deadline_ms=DEADLINE_MS,
        ttl_ms=RESULT_MS,
        size=10,
        max_jobs=100,
        max_bytes=10_000,
        channel="waiting",
        fields=fields,
    )
    assert run(store, call).status == "accepted"


def drain(store: redis.Redis, process: str = "p") -> list[bytes]:
    return [raw for _, raw in run(store, scripts.drain([LIST], [10], process=process)).messages]


def exhaust(store: redis.Redis, job_id: str, *, solo_only: bool = False) -> None:
    """Each process that takes the job dies, until it has failed."""
    look = scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000)
    run(store, look)  # workers look all the time; a first look would take what it finds for an outage
    for number in range(9):
        drain(store, f"gone-{number}")
        solo = solo_only or number > 0
        call = scripts.claim([job_id], process=f"gone-{number}", worker=f"w{number}", max_attempts=2, solo=solo)
        (verdict,) = run(store, call)
        if verdict.status == "ended":
            run(store, scripts.ack([job_id], process=f"gone-{number}"))
            return
        store.zadd(keys.LEASES, {job_id: 1})
        assert run(store, look) == [job_id]
    raise AssertionError("it never ended")


def letters(store: redis.Redis) -> list[tuple[str, dict[str, bytes]]]:
    found: Any = store.xrange(keys.DEAD)
    return [(number.decode(), {k.decode(): v for k, v in fields.items()}) for number, fields in found]


def retry(letter: str, old_id: str, new_id: str, *, payloads: int = 0, **more: Any) -> scripts.Call[scripts.Retried]:
    asked: dict[str, Any] = {
        "list_name": LIST,
        "raw": message(new_id),
        "ref": REF,
        "deadline_ms": 90_000,
        "ttl_ms": RESULT_MS,
        "size": 10,
        "fields": {"model": "echo", "version": "1", "retried_from": old_id, "suspect": "1", "payloads": payloads},
    }
    return scripts.retry(letter, old_id=old_id, payloads=payloads, job_id=new_id, **asked | more)


def record(store: redis.Redis, job_id: str) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in store.hgetall(keys.JOB + job_id).items()}


def counters(store: redis.Redis) -> dict[str, int]:
    found = {k.decode(): int(v) for k, v in store.hgetall(keys.COUNTERS + REF).items()}
    return {name: n for name, n in found.items() if n and not name.startswith(("le:", "latency"))}


def snapshot(store: redis.Redis) -> dict[bytes, bytes | None]:
    """Every key with its value, byte for byte."""
    return {key: store.dump(key) for key in store.scan_iter(count=1000)}


# What is kept ------------------------------------------------------------------------------------


def test_a_letter_holds_what_a_human_and_a_retry_need(store: redis.Redis) -> None:
    submit(store, "a", b"x" * 10, b"y")
    exhaust(store, "a")
    ((number, letter),) = letters(store)
    assert letter.pop("raw") == message("a", ["/0", "/1"])
    assert {name: value.decode() for name, value in letter.items()} == {
        "reason": "attempts_exhausted",
        "id": "a",
        "list": LIST,
        "ref": REF,
        "payloads": "2",
        "dead_ttl_ms": str(DEAD_MS),
        "attempt": "3",
        "crashes": "2",
        "worker": "w2",
        "size": "10",
        "ttl_ms": str(RESULT_MS),
        "timeout_ms": "7000",
        "labels": '{"a":"b"}',
        "owner": "me",
    }
    assert record(store, "a")["letter"] == number
    assert record(store, "a")["code"] == "attempts_exhausted"


def test_payloads_live_as_long_as_the_letter(store: redis.Redis) -> None:
    submit(store, "a", b"x", b"y")
    exhaust(store, "a")
    for number in range(2):
        assert DEAD_MS - 30_000 < store.pttl(keys.payload_key("a", number)) <= DEAD_MS
    assert store.pttl(keys.JOB + "a") <= RESULT_MS
    assert store.pttl(keys.OUTCOME + "a") <= RESULT_MS


def test_old_letters_are_swept_in_redis_time(store: redis.Redis) -> None:
    store.xadd(keys.DEAD, {"reason": "unparsable", "id": "", "list": LIST, "raw": "old"}, id="1000-0")
    store.lpush(LIST, "new")
    drain(store)
    assert [letter["raw"] for _, letter in letters(store)] == [b"old", b"new"]
    run(store, scripts.sweep())
    assert [letter["raw"] for _, letter in letters(store)] == [b"new"]
    run(store, scripts.sweep(dead_ttl_ms=DEAD_MS))
    assert [letter["raw"] for _, letter in letters(store)] == [b"new"]

    def swept() -> bool:
        run(store, scripts.sweep(dead_ttl_ms=1))
        return letters(store) == []

    wait_until(swept, what="a letter older than 1 ms goes")


def test_a_sweep_without_letters_leaves_no_key(store: redis.Redis) -> None:
    run(store, scripts.sweep())
    assert store.exists(keys.DEAD) == 0


def test_the_stream_stays_bounded(store: redis.Redis) -> None:
    store.lpush(LIST, "not a message")
    pipe = store.pipeline(transaction=False)
    for _ in range(100_100):
        pipe.xadd(keys.DEAD, {"reason": "unparsable", "id": "", "list": LIST, "raw": "x"})
    pipe.execute()
    drain(store)
    assert store.xlen(keys.DEAD) < 100_100


# A held message is buried ------------------------------------------------------------------------


def test_a_buried_job_fails_at_once(store: redis.Redis) -> None:
    submit(store, "a", b"x")
    pubsub = store.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe("waiting")
    drain(store)
    assert run(store, scripts.bury("a", "rejected"))
    assert (record(store, "a")["state"], record(store, "a")["code"]) == ("failed", "model_unavailable")
    outcome = json.loads(store.get(keys.OUTCOME + "a") or b"")
    assert outcome["ml"]["error"]["code"] == "model_unavailable"
    assert outcome["date_done"]
    assert counters(store) == {"failed": 1}
    assert store.zcard(keys.DEADLINES) == store.hlen(keys.UNACKED) == store.zcard(keys.LEASES) == 0
    ((number, letter),) = letters(store)
    assert (letter["reason"], letter["id"], letter["raw"]) == (b"rejected", b"a", message("a", ["/0"]))
    assert record(store, "a")["letter"] == number
    assert DEAD_MS - 30_000 < store.pttl(keys.payload_key("a", 0)) <= DEAD_MS
    news: list[Any] = []
    wait_until(lambda: news.append(pubsub.get_message()) or any(news), what="who waits is told")
    assert next(filter(None, news))["data"].startswith(b"a\n")
    pubsub.close()
    assert not run(store, scripts.bury("a", "rejected")), "not held any more"
    assert len(letters(store)) == 1


def test_a_job_that_has_ended_needs_no_letter(store: redis.Redis) -> None:
    submit(store, "a", b"x")
    drain(store)
    run(store, scripts.cancel("a"))
    assert not run(store, scripts.bury("a", "rejected"))
    assert (letters(store), record(store, "a")["state"]) == ([], "canceled")
    assert store.hlen(keys.UNACKED) == store.zcard(keys.LEASES) == 0


def test_a_message_without_a_record_is_kept_under_its_jobs_id(store: redis.Redis) -> None:
    """A plain producer's delivery tag is not the id of its job."""
    plain = json.loads(message("job"))
    plain["properties"]["delivery_tag"] = "tag"
    nameless = json.loads(message("job"))
    nameless["properties"]["delivery_tag"], nameless["headers"] = "tag2", {}
    for one in (plain, nameless):
        store.lpush(LIST, json.dumps(one))
    assert len(drain(store)) == 2
    assert run(store, scripts.bury("tag", "rejected"))
    assert run(store, scripts.bury("tag2", "rejected"))
    assert [letter["id"] for _, letter in letters(store)] == [b"job", b"tag2"]
    assert not store.exists(keys.JOB + "job", keys.JOB + "tag", keys.JOB + "tag2"), "no record is made"


def test_a_job_from_before_dead_letters_had_a_ttl(store: redis.Redis) -> None:
    submit(store, "a", b"x")
    store.hdel(keys.JOB + "a", "dead_ttl_ms")
    exhaust(store, "a")
    assert len(letters(store)) == 1
    assert 0 < store.pttl(keys.payload_key("a", 0)) <= RESULT_MS


# Retry -------------------------------------------------------------------------------------------


def test_a_retry_is_a_new_job_with_the_same_input(store: redis.Redis) -> None:
    submit(store, "a", b"x" * 10, b"y")
    exhaust(store, "a")
    ((letter, _),) = letters(store)
    old = record(store, "a")
    outcome = store.get(keys.OUTCOME + "a")
    reply = run(store, retry(letter, "a", "b", payloads=2))
    assert reply.status == "retried"
    new = record(store, "b")
    assert (new["state"], new["attempt"], new["suspect"], new["retried_from"]) == ("queued", "0", "1", "a")
    assert int(new["created_at"]) == reply.created_at
    assert int(new["deadline_at"]) == reply.deadline_at == reply.created_at + 90_000
    assert not {"crashes", "runner", "worker", "waiters", "letter"} & new.keys(), "nothing of the old state"
    assert [store.get(keys.payload_key("b", n)) for n in range(2)] == [b"x" * 10, b"y"]
    assert store.exists(keys.payload_key("a", 0), keys.payload_key("a", 1)) == 0
    for key in (keys.JOB + "b", keys.payload_key("b", 0), keys.payload_key("b", 1)):
        assert 90_000 + RESULT_MS - 30_000 < store.pttl(key) <= 90_000 + RESULT_MS
    assert store.zscore(keys.DEADLINES, "b") == reply.deadline_at
    assert letters(store) == []
    assert counters(store) == {"failed": 1, "queued": 1, "bytes": 10}
    assert store.get(keys.OUTCOME + "a") == outcome, "the old outcome stands"
    del old["letter"]
    assert record(store, "a") == old
    assert drain(store) == [message("b")]


def test_a_retry_runs_alone_and_may_die_again(store: redis.Redis) -> None:
    submit(store, "a")
    exhaust(store, "a")
    run(store, retry(letters(store)[0][0], "a", "b"))
    drain(store)
    in_company = scripts.claim(["b"], process="p", worker="w", max_attempts=2)
    assert run(store, in_company)[0].status == "suspect"
    run(store, scripts.give_back(["b"], process="p"))
    exhaust(store, "b", solo_only=True)
    ((_, letter),) = letters(store)
    assert (letter["id"], letter["crashes"], letter["attempt"]) == (b"b", b"2", b"2"), "counted from the start"


def test_the_retried_job_succeeds_and_its_payloads_go(store: redis.Redis) -> None:
    submit(store, "a", b"x")
    exhaust(store, "a")
    run(store, retry(letters(store)[0][0], "a", "b", payloads=1))
    drain(store)
    run(store, scripts.claim(["b"], process="p", worker="w", max_attempts=2, solo=True))
    finish = scripts.finish("b", tag="b", state=State.SUCCEEDED, code="", meta=b"{}", ttl_ms=1000)
    assert run(store, finish).first
    assert not store.exists(keys.payload_key("b", 0))
    assert counters(store) == {"failed": 1, "succeeded": 1}


def test_a_retry_run_again_is_the_same_job(store: redis.Redis) -> None:
    """A connection that breaks after the script has run makes the client run it once more."""
    submit(store, "a", b"x")
    exhaust(store, "a")
    call = retry(letters(store)[0][0], "a", "b", payloads=1)
    assert run(store, call) == run(store, call)
    assert store.llen(LIST) == 1
    assert counters(store) == {"failed": 1, "queued": 1, "bytes": 10}


def _race(url: str, calls: dict[str, scripts.Call[scripts.Retried]]) -> dict[str, str]:
    """All at once, each on a connection of its own."""
    barrier = threading.Barrier(len(calls))
    replies: dict[str, str] = {}

    def once(name: str) -> None:
        with redis.Redis.from_url(url) as client:
            client.ping()
            barrier.wait()
            replies[name] = run(client, calls[name]).status

    threads = [threading.Thread(target=once, args=(name,)) for name in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def test_of_many_retries_at_once_one_makes_a_job(store: redis.Redis, server: EmbeddedServer) -> None:
    for number in range(20):
        old = f"old-{number}"
        submit(store, old, b"x")
        exhaust(store, old)
        ((letter, _),) = letters(store)
        names = [f"new-{number}-{n}" for n in range(4)]
        replies = _race(server.url, {name: retry(letter, old, name, payloads=1) for name in names})
        assert sorted(replies.values()) == ["gone", "gone", "gone", "retried"]
        (winner,) = [name for name, status in replies.items() if status == "retried"]
        assert [name for name in names if store.exists(keys.JOB + name)] == [winner]
        assert drain(store) == [message(winner)]
        assert store.get(keys.payload_key(winner, 0)) == b"x"


def test_refused_retries_change_nothing(store: redis.Redis) -> None:
    submit(store, "a", b"x", b"y")
    exhaust(store, "a")
    ((letter, _),) = letters(store)
    store.delete(keys.payload_key("a", 1))
    before = snapshot(store)
    assert run(store, retry(letter, "a", "b", payloads=2)).status == "payload"
    assert run(store, retry("1-1", "a", "b", payloads=2)).status == "gone"
    assert snapshot(store) == before


def test_a_full_store_refuses_retries_and_lets_letters_be_dropped(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "redis") as own, redis.Redis.from_url(own.url) as store:
        submit(store, "a", b"x")
        exhaust(store, "a")
        ((letter, _),) = letters(store)
        store.config_set("maxmemory", "1")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            run(store, retry(letter, "a", "b", payloads=1))
        assert run(store, scripts.drop(letter, job_id="a", payloads=1))
        assert letters(store) == []


# Drop --------------------------------------------------------------------------------------------


def test_a_dropped_letter_takes_its_payloads(store: redis.Redis) -> None:
    submit(store, "a", b"x", b"y")
    exhaust(store, "a")
    ((letter, _),) = letters(store)
    drop = scripts.drop(letter, job_id="a", payloads=2)
    assert run(store, drop)
    assert letters(store) == []
    assert not store.exists(keys.payload_key("a", 0), keys.payload_key("a", 1))
    assert record(store, "a")["code"] == "attempts_exhausted", "the job stays readable"
    assert "letter" not in record(store, "a")
    assert not run(store, drop)
    assert run(store, retry(letter, "a", "b", payloads=2)).status == "gone"


def test_dropping_what_is_none_touches_no_payload(store: redis.Redis) -> None:
    submit(store, "a", b"x")
    assert not run(store, scripts.drop("1-1", job_id="a", payloads=1))
    assert store.exists(keys.payload_key("a", 0))


# The message -------------------------------------------------------------------------------------


def test_a_reissued_message_differs_only_in_its_ids() -> None:
    old = json.loads(message("old", ["/image"]))
    body = json.dumps([[], {"model": "echo"}, {"callbacks": [{"task": "backend.after"}], "chain": None}])
    old["body"] = base64.b64encode(body.encode()).decode()
    new = json.loads(messages.reissue(messages.unpack(json.dumps(old).encode())[0], "new", {}))
    assert new["body"] == old["body"], "callbacks and all"
    assert (new["headers"].pop("id"), new["headers"].pop("root_id")) == ("new", "new")
    assert (new["properties"].pop("correlation_id"), new["properties"].pop("delivery_tag")) == ("new", "new")
    for part, names in (("headers", ("id", "root_id")), ("properties", ("correlation_id", "delivery_tag"))):
        for name in names:
            assert old[part].pop(name) == "old"
    assert new == old
    assert new["headers"]["ml_payloads"] == ["/image"]


def test_a_reissued_task_stays_in_its_chain() -> None:
    old = json.loads(message("old"))
    old["headers"] |= {"root_id": "root", "parent_id": "parent"}
    new = json.loads(messages.reissue(old, "new", {}))
    assert (new["headers"]["id"], new["headers"]["root_id"], new["headers"]["parent_id"]) == ("new", "root", "parent")


def _broken(**changes: Any) -> bytes:
    return json.dumps(json.loads(message("a")) | changes).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80\x04\x95",
        b"[]",
        b"{}",
        _broken(body="%%%"),
        _broken(body=base64.b64encode(b"\x80\x04").decode()),
        _broken(body=base64.b64encode(b"[[], [], {}]").decode()),
        _broken(body=base64.b64encode(b"{}").decode()),
        _broken(body=7),
        _broken(headers=[]),
        _broken(properties=None),
        _broken(**{"content-type": "application/x-python-serialize"}),
        b"[" * 5000,
    ],
)
def test_what_is_no_message_is_told(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        messages.unpack(raw)
