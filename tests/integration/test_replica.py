"""`ML_DURABILITY=replica`: no 202 before a replica has the job. The replica is stopped, as one is that lags behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from api.replica import Replica
from local.embedded import EmbeddedServer
from shared import keys
from shared.errors import ConfigError
from shared.settings import Settings
from shared.store import aconnect
from tests.api_stack import Api, serving, settings, until
from tests.redis_kinds import REPLICATING

JOB = {"model": "echo", "input": 1}


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "primary", extra=REPLICATING) as server:
        yield server


@pytest.fixture
def replica(primary: EmbeddedServer, tmp_path: Path) -> Iterator[EmbeddedServer]:
    following = ("--replicaof", "127.0.0.1", str(primary.port))
    with EmbeddedServer(tmp_path / "replica", extra=(*REPLICATING, *following)) as server:
        yield server
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture
async def api(primary: EmbeddedServer, replica: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Api]:
    async with aconnect(Settings(redis_url=primary.url)) as client:

        async def follows() -> bool:
            found = (await client.info("replication")).get("slave0", {})
            return found.get("state") == "online"

        await until(follows, "the replica follows")
    async with serving(settings(primary.url, tmp_path, durability="replica", drain_s=0.5)) as running:
        yield running


async def _queued(api: Api) -> tuple[asyncio.Task[httpx.Response], str]:
    """A call whose job is queued, and not answered."""
    call = asyncio.create_task(api.client.post("/v1/jobs", json=JOB))
    await until(lambda: api.parts.client.zcard(keys.DEADLINES), "the job is queued")
    ((job_id),) = await api.parts.client.zrange(keys.DEADLINES, 0, -1)
    return call, job_id.decode()


async def test_no_202_before_a_replica_has_it(api: Api, replica: EmbeddedServer) -> None:
    assert (await api.client.post("/v1/jobs", json=JOB, headers={"Idempotency-Key": "a"})).status_code == 202
    await api.parts.client.delete(keys.DEADLINES)
    os.kill(replica.pid, signal.SIGSTOP)
    call, job_id = await _queued(api)
    for _ in range(20):
        assert (await api.client.get(f"/v1/jobs/{job_id}")).json()["state"] == "queued"
    assert not call.done()
    os.kill(replica.pid, signal.SIGCONT)
    answer = await call
    assert (answer.status_code, answer.json()["id"]) == (202, job_id)


async def test_one_is_not_two(primary: EmbeddedServer, api: Api) -> None:
    """`api` is there for the one that follows."""
    async with aconnect(Settings(redis_url=primary.url)) as client:
        both = Replica(client, 2)
        assert await client.execute_command(*both.question()[:2], 1) == 1  # type: ignore[no-untyped-call]
        assert [both.confirms(count) for count in (0, 1, 2)] == [False, False, True]
        with pytest.raises(ConfigError, match="has 1 replicas now and ML_REPLICAS is 2"):
            await both.check()


async def test_who_waits_for_a_replica_that_is_gone_is_told(api: Api, replica: EmbeddedServer) -> None:
    replica.kill()
    call, _ = await _queued(api)
    api.server.handle_exit(signal.SIGTERM, None)  # else it is told after 15 s
    answer = await call
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert "not enough replicas of Redis have confirmed it" in answer.json()["detail"]
    replica.start()


async def test_a_server_without_a_replica_is_refused(primary: EmbeddedServer) -> None:
    async with aconnect(Settings(redis_url=primary.url)) as client:
        with pytest.raises(ConfigError, match="has 0 replicas now and ML_REPLICAS is 1"):
            await Replica(client, 1).check()
