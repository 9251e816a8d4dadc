"""The judge of the loss benchmark: a message that is anywhere is not lost, on either side."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from kombu import Connection

from benchmarks.loss_runs import VARIABLE, record, starts
from benchmarks.loss_sides import QUEUE, Ours, Stock
from shared import keys, scripts
from shared.types import State

ORDERS = [{"number": number, "ms": 0, "abort": False, "payload": "x"} for number in range(3)]


def test_our_messages_are_found_in_their_list_and_in_hands(store: redis.Redis, redis_url: str, tmp_path: Path) -> None:
    side = Ours(store, redis_url, tmp_path)
    side.submit(ORDERS)
    assert (side.waiting(), side.left(), side.outcomes()) == ({0, 1, 2}, 3, {})
    scripts.one(scripts.run(store, [scripts.drain([keys.queue_list(QUEUE, keys.NORMAL)], [2], process="p")]))
    assert (side.waiting(), side.left()) == ({0, 1, 2}, 3)
    end = scripts.finish(
        "loss-0", tag="loss-0", state=State.SUCCEEDED, code="", meta=b'{"status": "SUCCESS"}', ttl_ms=9999
    )
    scripts.one(scripts.run(store, [end]))
    assert (side.waiting(), side.left(), side.outcomes()) == ({1, 2}, 2, {0: "SUCCESS"})


def test_stock_messages_are_found_in_their_list_and_in_hands(
    store: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    side = Stock(store, redis_url, tmp_path)
    side.submit(ORDERS)
    assert (side.waiting(), side.left()) == ({0, 1, 2}, 3)
    with Connection(redis_url) as connection:
        channel = connection.channel()
        message = channel.basic_get("celery")
        assert store.hlen("unacked") == 1
        assert (side.waiting(), side.left()) == ({0, 1, 2}, 3)
        message.ack()
        assert (side.waiting(), side.left()) == ({1, 2}, 2)
    store.delete("celery")


def test_starts_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    assert not starts(runs)
    monkeypatch.setenv(VARIABLE, str(runs))
    for number in (3, -1, 4, 3):
        record(number)
    assert starts(runs) == {3: 2, 4: 1}
