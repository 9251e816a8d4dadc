"""How much a worker holds: two batches of items, so that lists of many items keep other workers busy too."""

from __future__ import annotations

import orjson
import pytest
import redis

from shared import keys, messages, scripts
from worker.holdings import EXTRAS, Holdings

QUEUE = keys.queue_name("m", "1")
LIST = keys.queue_list(QUEUE, keys.NORMAL)
ROOM = 64


def push(store: redis.Redis, job_id: str, items: int, owner: str = "") -> None:
    raw = messages.build(
        job_id, queue=QUEUE, priority=keys.NORMAL, model="m", version="1", input=1, items=items, owner=owner
    )
    call = scripts.submit(
        job_id,
        list_name=LIST,
        raw=raw,
        ref="m@1",
        deadline_ms=60_000,
        ttl_ms=60_000,
        size=1,
        max_jobs=10**6,
        max_bytes=10**9,
        share=scripts.Share(owner),
        fields={"model": "m", "version": "1", "items": items},
    )
    scripts.one(scripts.run(store, [call]))


def drain(store: redis.Redis, room: int) -> scripts.Drained:
    found: scripts.Drained = scripts.one(scripts.run(store, [scripts.drain([LIST], [room], process="p")]))
    return found


@pytest.mark.parametrize("owner", ["", "key_a"])
@pytest.mark.parametrize(("items", "taken"), [(1, 64), (8, 8), (40, 2), (500, 1)])
def test_a_drain_takes_as_many_items_as_there_is_room_for(
    store: redis.Redis, items: int, taken: int, owner: str
) -> None:
    jobs = [f"job-{number}" for number in range(100)]
    for job_id in jobs:
        push(store, job_id, items, owner)
    drained = drain(store, ROOM)
    assert [tag.decode() for tag in drained.tags] == jobs[:taken], "in their order"
    assert drained.left == [LIST]
    rest = [tag.decode() for tag in drain(store, 10**6).tags]
    assert rest == jobs[taken:], "each once"
    assert store.hlen(keys.UNACKED) == len(jobs)


@pytest.mark.parametrize("items", [0, -3, 1.5, "8", None, True, [8], 1e308])
def test_what_says_strange_things_of_its_items_is_taken_once(store: redis.Redis, items: object) -> None:
    raw = messages.build("a", queue=QUEUE, priority=keys.NORMAL, model="m", version="1", input=1, carried={"x": "y"})
    message, _ = messages.unpack(raw)
    message["headers"]["ml_items"] = items
    store.lpush(LIST, orjson.dumps(message))
    assert drain(store, 3).tags == [b"a"]
    assert messages.items_of(message["headers"]) == 1
    assert not store.exists(LIST)


def test_lists_of_many_items_fill_the_room_and_one_job_more_is_let_in_for_each_batch() -> None:
    holdings = Holdings("p", lambda name: ROOM)
    held = [f"long-{number}" for number in range(8)]
    for tag in held:
        assert holdings.room([LIST])[0] > 0
        holdings.hold(tag, LIST, 8)
    assert holdings.room([LIST, "other"]) == [0, ROOM]
    assert holdings.one_more()
    assert holdings.room([LIST, "other"]) == [1, ROOM]
    holdings.hold("lone", LIST)
    assert holdings.room([LIST]) == [0], "one"
    for tag in held[:4]:
        holdings.release(tag)
    assert holdings.room([LIST]) == [31]


def test_a_worker_holds_few_jobs_that_have_no_room_however_long_they_are() -> None:
    holdings = Holdings("p", lambda name: ROOM)
    holdings.hold("first", LIST, 500)
    for number in range(EXTRAS):
        assert holdings.one_more()
        assert holdings.one_more(), "a second look at the same time lets in no other"
        holdings.hold(f"long-{number}", LIST, 500)
        assert holdings.room([LIST]) == [0]
    assert not holdings.one_more(), "other workers may have nothing to do"
    holdings.release("first")
    assert not holdings.one_more()
    holdings.release("long-0")
    assert holdings.one_more()
    holdings.hold("lone", LIST)
    assert not holdings.one_more()
    holdings.release("lone")
    assert holdings.one_more(), "single ones take turns: each goes with the next batch"


def test_of_single_items_a_batch_lets_in_no_more_than_there_is_room_for() -> None:
    holdings = Holdings("p", lambda name: ROOM)
    for number in range(ROOM):
        holdings.hold(str(number), LIST)
    assert not holdings.one_more()
    assert holdings.room([LIST]) == [0]
    holdings.close()
    assert holdings.room([LIST]) == [0]
