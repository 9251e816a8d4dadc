"""What a job says while it runs: `say` keeps each piece once, and the teller sends them in order and fails nobody."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys, scripts
from shared.scripts_jobs import say
from shared.types import State
from tests.conftest import wait_until
from tests.unit.test_progress import run, work_of
from worker import pieces
from worker.pieces import PieceTeller
from worker.work import Unit, Work


def said(store: redis.Redis, job_id: str, attempt: int = 1) -> str:
    return (store.get(keys.said_key(job_id, attempt)) or b"").decode()


def tell(store: redis.Redis, piece: str, at: int, most: int = 1000, **more: Any) -> bool:
    asked = {"process": "p", "attempt": 1, **more}
    kept: bool = scripts.one(scripts.run(store, [say("a", piece.encode(), at=at, most_bytes=most, **asked)]))
    return kept


def running(job_id: str, *chunks: int) -> tuple[Work, list[Unit]]:
    work, units = work_of(job_id, *chunks)
    work.attempt = 1
    return work, units


def test_pieces_are_kept_in_their_places_and_once(store: redis.Redis) -> None:
    run(store, "a")
    assert tell(store, "Grü", 0)
    assert tell(store, "ße", 4)
    assert tell(store, "ße", 4), "sent again"
    assert tell(store, "Grüße, W", 0), "said again, and further"
    assert said(store, "a") == "Grüße, W"
    assert not tell(store, "Grob", 0), "something else"
    assert not tell(store, "!", 99), "something is missing before it"
    assert said(store, "a") == "Grüße, W"
    assert 0 < store.pttl(keys.said_key("a", 1)) <= 60_000, "its deadline is in a minute"


def test_of_what_is_too_much_the_beginning_is_kept(store: redis.Redis) -> None:
    run(store, "a")
    assert tell(store, "1234", 0, most=6)
    assert not tell(store, "5678", 4, most=6)
    assert not tell(store, "x", 8, most=6)
    assert not tell(store, "7", 6, most=6)
    assert said(store, "a") == "123456"


def test_only_the_run_that_is_under_way_is_heard(store: redis.Redis) -> None:
    run(store, "a")
    assert not tell(store, "x", 0, process="q")
    assert not tell(store, "x", 0, attempt=2)
    assert not tell(store, "x", 0, attempt=0)
    scripts.one(scripts.run(store, [scripts.cancel("a")]))
    assert not tell(store, "x", 0), "it was canceled while it ran"
    finish = scripts.finish("a", tag="a", state=State.SUCCEEDED, code="", meta=b"{}", ttl_ms=1000)
    scripts.one(scripts.run(store, [finish]))
    assert not tell(store, "x", 0), "it has ended"
    assert said(store, "a") == ""
    assert not tell(store, "x", 0, process="p"), "and one that is unknown"


def test_who_listens_is_woken_by_what_is_new(store: redis.Redis) -> None:
    run(store, "a")
    scripts.one(scripts.run(store, [scripts.watch("a", channel="here", listen=True)]))
    with store.pubsub() as heard:
        heard.subscribe("here")
        heard.get_message(timeout=5)
        tell(store, "one", 0)
        tell(store, "one", 0)
        tell(store, "two", 3)
        news = [heard.get_message(timeout=5)["data"].split(b"\n") for _ in range(2)]
        assert [(job_id, what, text) for job_id, _, what, text in news] == [(b"a", b"progress", b"")] * 2
        assert heard.get_message(timeout=0.1) is None


def test_what_is_said_comes_whole_and_in_order(store: redis.Redis) -> None:
    run(store, "mine")
    run(store, "others", process="q")
    teller = PieceTeller(store, "p")
    mine, units = running("mine", 1)
    _, foreign = running("others", 1)
    hear = teller.listener([*units, *foreign])
    teller.start()
    text = "".join(chr(0x20 + n % 90) + "ü€🙂"[n % 3] for n in range(300))
    for letter in text:
        hear(0, letter)
        hear(1, letter)
    wait_until(lambda: said(store, "mine") == text, what="all of it")
    assert said(store, "others") == ""
    hear(1, "it is not mine any more")
    mine.ended = True
    hear(0, "too late")
    wait_until(lambda: not teller._changed, what="all was looked at")
    assert said(store, "mine") == text


def test_nothing_a_handler_says_breaks_anything(store: redis.Redis) -> None:
    for name in ("one", "items", "chunks"):
        run(store, name)
    teller = PieceTeller(store, "p")
    units = [*running("one", 1)[1], *running("items", 1, 1)[1], *running("chunks", 2)[1]]
    hear: Any = teller.listener(units)
    for position in (-1, 5, 1000, 1, 2, 3, 4):
        hear(position, "x")
    for text in (None, 7, b"bytes", "", ["x"]):
        hear(0, text)
    assert not teller._changed
    hear(0, "half a \ud83d pair")
    teller.start()
    wait_until(lambda: said(store, "one") == "half a ? pair")
    assert said(store, "items") == said(store, "chunks") == "", "whose answers would be mixed"


def test_a_batch_that_is_run_again_says_it_once(store: redis.Redis) -> None:
    run(store, "a")
    teller = PieceTeller(store, "p")
    _, units = running("a", 1)
    teller.start()
    hear = teller.listener(units)
    hear(0, "one two ")
    wait_until(lambda: said(store, "a") == "one two ")
    again = teller.listener(units)
    for word in ("one ", "two ", "three"):
        again(0, word)
    wait_until(lambda: said(store, "a") == "one two three")
    other = teller.listener(units)
    other(0, "something else")
    wait_until(lambda: not teller._changed)
    assert said(store, "a") == "one two three"


def test_many_threads_and_jobs_are_few_calls(store: redis.Redis) -> None:
    teller = PieceTeller(store, "p")
    jobs = [f"job-{n}" for n in range(20)]
    units = []
    for name in jobs:
        run(store, name)
        units += running(name, 1)[1]
    hear = teller.listener(units)
    before = store.info("commandstats").get("cmdstat_append", {"calls": 0})["calls"]

    def speak(position: int) -> None:
        for n in range(500):
            hear(position, f"{n} ")

    threads = [threading.Thread(target=speak, args=(position,)) for position in range(20)]
    teller.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = "".join(f"{n} " for n in range(500))
    wait_until(lambda: all(said(store, name) == whole for name in jobs), what="all of all")
    assert store.info("commandstats")["cmdstat_append"]["calls"] - before < 2000, "of 10,000"


def test_while_redis_is_away_a_bounded_part_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_RETRY_S", 0.02)
    monkeypatch.setattr(pieces, "MOST_BYTES", 100)
    with EmbeddedServer(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as store:
        run(store, "a")
        run(store, "b")
        teller = PieceTeller(redis.Redis.from_url("redis://127.0.0.1:1"), "p")
        teller.start()
        hear = teller.listener([*running("a", 1)[1], *running("b", 1)[1]])
        hear(0, "kept ")
        for _ in range(11):
            hear(1, "0123456789")
        hear(1, "and no more")
        teller._client = store
        hear(0, "and told")
        wait_until(lambda: said(store, "a") == "kept and told")
        wait_until(lambda: not teller._changed)
        assert said(store, "b") == ""


def test_a_full_store_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_RETRY_S", 0.02)
    with EmbeddedServer(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as store:
        run(store, "a")
        teller = PieceTeller(store, "p")
        teller.start()
        store.config_set("maxmemory", "1")
        hear = teller.listener(running("a", 1)[1])
        hear(0, "one ")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            tell(store, "x", 0)
        store.config_set("maxmemory", "0")
        hear(0, "two")
        wait_until(lambda: said(store, "a") == "one two")
