"""`python -m api` as a process: start, drain, refuse a wrong configuration."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from api.server import LINGER_S
from shared import keys
from tests.api_stack import MODELS, Hands, settings, until


@dataclass
class Process:
    """A running `python -m api`."""

    popen: subprocess.Popen[bytes]
    log: Path
    client: httpx.AsyncClient

    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [orjson.loads(line) for line in self.log.read_bytes().splitlines()]


Start = Callable[..., Any]


@pytest.fixture
async def start(redis_url: str, tmp_path: Path, repository: Path) -> AsyncIterator[Start]:
    (tmp_path / "models.yaml").write_text(MODELS)
    running: list[Process] = []

    async def begin(listen: socket.socket | None = None, **more: str) -> Process:
        environment = os.environ | {"ML_REDIS_URL": redis_url, "ML_PORT": "0"}
        environment |= {"ML_MODELS_FILE": str(tmp_path / "models.yaml"), **more}
        fds = [listen.fileno()] if listen else []
        if fds:
            environment["ML_LISTEN_FD"] = str(fds[0])
        log = tmp_path / f"api-{len(running)}.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "api"]
            popen = subprocess.Popen(command, cwd=repository, env=environment, stderr=output, pass_fds=fds)  # noqa: ASYNC220 - brief
        client = httpx.AsyncClient(timeout=30, trust_env=False)
        process = Process(popen, log, client)
        running.append(process)
        await until(lambda: b'"started"' in log.read_bytes() or popen.poll() is not None, "the process has started")
        if popen.poll() is None:
            client.base_url = httpx.URL(f"http://127.0.0.1:{process.events()[-1]['port']}")
        return process

    yield begin
    for process in running:
        await process.client.aclose()
        process.popen.kill()
        process.popen.wait()


@pytest.fixture
async def hands(redis_url: str, tmp_path: Path) -> AsyncIterator[Hands]:
    found = Hands.on(settings(redis_url, tmp_path))
    yield found
    await found.client.aclose()


async def test_a_drain_holds_callers_for_their_outcome(start: Start, hands: Hands) -> None:
    api = await start(ML_DRAIN_S="20")
    call = asyncio.create_task(api.client.post("/inference", json={"model_type": "echo", "data": 1}))
    (taken,) = await hands.take()
    api.popen.send_signal(signal.SIGTERM)
    await until(lambda: b'"stopping"' in api.log.read_bytes(), "it drains")
    await until(lambda: refused(api), "it accepts nobody")
    assert not call.done()
    await hands.finish(taken)
    answer = await call
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    await until(lambda: api.popen.poll() is not None, "it exits")
    assert api.popen.returncode == 0
    assert [event["event"] for event in api.events()] == ["registry_changed", "started", "stopping", "stopped"]


async def test_the_rest_is_released_when_the_drain_is_over(start: Start, hands: Hands) -> None:
    api = await start(ML_DRAIN_S="0.5")
    began = time.monotonic()
    asked = {"model": "echo", "input": 1}
    calls = [
        asyncio.create_task(api.client.post("/inference", json={"model_type": "echo", "data": 1})),
        asyncio.create_task(api.client.post("/v1/jobs", json=asked, headers={"Prefer": "wait=30"})),
    ]
    await hands.take(2)
    queued = (await api.client.post("/v1/jobs", json=asked)).json()["id"]
    calls.append(asyncio.create_task(api.client.get(f"/v1/jobs/{queued}?wait=30")))
    await until(lambda: hands.client.hexists(keys.JOB + queued, "waiters"), "the long-poll waits")
    api.popen.send_signal(signal.SIGTERM)
    inference, submitted, polled = await asyncio.gather(*calls)
    assert time.monotonic() - began < 10
    assert (inference.status_code, inference.json()["code"]) == (504, "wait_ended")
    assert inference.headers["location"].startswith("/v1/jobs/")
    assert inference.headers["x-should-retry"] == "false"
    assert (submitted.status_code, submitted.json()["state"]) == (202, "running")
    assert submitted.headers["location"] == f"/v1/jobs/{submitted.json()['id']}"
    assert (polled.status_code, polled.json()["state"]) == (200, "queued")
    assert {answer.headers["connection"] for answer in (inference, submitted, polled)} == {"close"}
    await until(lambda: api.popen.poll() is not None, "it exits")
    assert api.popen.returncode == 0


async def test_open_connections_are_served_through_the_drain(start: Start, hands: Hands) -> None:
    """A new connection is refused by then, so each answer came on a kept one."""
    api = await start(ML_DRAIN_S="20")
    kept = [httpx.AsyncClient(base_url=api.client.base_url, timeout=30, trust_env=False) for _ in range(4)]
    for client in kept:
        assert "connection" not in (await client.get("/livez")).headers
    api.popen.send_signal(signal.SIGTERM)
    await until(lambda: refused(api), "it accepts nobody")
    answers = await asyncio.gather(
        kept[0].get("/livez"),
        kept[1].get("/readyz"),
        kept[2].post("/v1/jobs", json={"model": "echo", "input": "late"}),
    )
    assert [answer.status_code for answer in answers] == [200, 503, 202]
    assert {answer.headers["connection"] for answer in answers} == {"close"}
    assert (await hands.take())[0].kwargs["input"] == "late"
    await until(lambda: api.popen.poll() is not None, "it exits, though one connection stays idle")
    assert api.popen.returncode == 0
    assert took_s(api) < 10, "an idle connection does not hold it up to ML_DRAIN_S"
    for client in kept:
        await client.aclose()


async def test_nobody_lingers_without_a_connection(start: Start) -> None:
    api = await start()
    await api.client.get("/livez")
    await api.client.aclose()
    api.popen.send_signal(signal.SIGTERM)
    await until(lambda: api.popen.poll() is not None, "it exits")
    assert took_s(api) < LINGER_S


async def test_the_linger_is_never_longer_than_the_drain(start: Start) -> None:
    api = await start(ML_DRAIN_S="0")
    await api.client.get("/livez")
    api.popen.send_signal(signal.SIGTERM)
    await until(lambda: api.popen.poll() is not None, "it exits")
    assert api.events()[-2]["connections"] == 1
    assert took_s(api) < LINGER_S


async def test_who_comes_to_wait_while_it_drains_is_not_held_longer(start: Start) -> None:
    api = await start(ML_DRAIN_S="1.5")
    kept = [httpx.AsyncClient(base_url=api.client.base_url, timeout=30, trust_env=False) for _ in range(3)]
    asked = {"model": "echo", "input": 1}
    queued = (await kept[0].post("/v1/jobs", json=asked)).json()["id"]
    for client in kept[1:]:
        await client.get("/livez")
    api.popen.send_signal(signal.SIGTERM)
    await until(lambda: refused(api), "it accepts nobody")
    polled, submitted, inference = await asyncio.gather(
        kept[0].get(f"/v1/jobs/{queued}?wait=30"),
        kept[1].post("/v1/jobs", json=asked, headers={"Prefer": "wait=30"}),
        kept[2].post("/inference", json={"model_type": "echo", "data": 1}),
    )
    assert (polled.status_code, polled.json()["state"]) == (200, "queued")
    assert (submitted.status_code, submitted.json()["state"]) == (202, "queued")
    assert (inference.status_code, inference.json()["code"]) == (504, "wait_ended")
    assert {answer.headers["connection"] for answer in (polled, submitted, inference)} == {"close"}
    await until(lambda: api.popen.poll() is not None, "it exits")
    assert took_s(api) < 10
    for client in kept:
        await client.aclose()


async def test_a_second_ctrl_c_releases_at_once_and_a_third_ends(start: Start, hands: Hands) -> None:
    api = await start(ML_DRAIN_S="60")
    call = asyncio.create_task(api.client.post("/inference", json={"model_type": "echo", "data": 1}))
    await hands.take()
    reader, stuck = await asyncio.open_connection("127.0.0.1", api.client.base_url.port)
    stuck.write(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
    assert b"100 Continue" in await reader.readline()
    api.popen.send_signal(signal.SIGINT)
    await until(lambda: b'"stopping"' in api.log.read_bytes(), "it drains")
    api.popen.send_signal(signal.SIGINT)
    assert (await call).json()["code"] == "wait_ended"
    assert api.popen.poll() is None, "the body is still to come"
    api.popen.send_signal(signal.SIGINT)
    await until(lambda: api.popen.poll() is not None, "it exits")
    assert api.popen.returncode == 0
    stuck.close()


@pytest.mark.long
async def test_processes_on_one_inherited_socket_refuse_nobody(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as shared:
        port = shared.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        first, second = await start(listen=shared), await start(listen=shared)
        assert [api.events()[-1]["port"] for api in (first, second)] == [port, port]

        async def ask() -> int:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as fresh:
                return (await fresh.get(f"{url}/livez")).status_code

        async def stop(api: Process) -> list[int]:
            """Stop it; the answers to all who came meanwhile."""
            api.popen.send_signal(signal.SIGTERM)
            answers = []
            while api.popen.poll() is None:
                answers.append(await ask())
            return answers

        assert set(await stop(first)) == {200}
        assert {await ask() for _ in range(20)} == {200}
        second.popen.send_signal(signal.SIGTERM)
        await until(lambda: second.popen.poll() is not None, "it exits")
        early = asyncio.create_task(ask())  # nobody is there to accept
        await start(listen=shared)
        assert await early == 200
        assert [api.popen.returncode for api in (first, second)] == [0, 0]


@pytest.mark.long
@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"ML_PORT": "x"}, "ML_PORT"),
        ({"ML_MODELS_FILE": "/nowhere/models.yaml"}, "/nowhere/models.yaml"),
        ({"ML_LISTEN_FD": "x"}, "ML_LISTEN_FD"),
        ({"ML_LISTEN_FD": "999"}, "ML_LISTEN_FD: 999 is no socket"),
        ({"ML_LISTEN_FD": "2"}, "ML_LISTEN_FD: 2 is no socket"),
        ({"ML_DURABILITY": "fsync"}, "appendfsync always"),
    ],
)
async def test_a_wrong_configuration_is_refused(start: Start, variables: dict[str, str], told: str) -> None:
    api = await start(**variables)
    assert api.popen.wait() == 2
    assert "config_refused" in api.log.read_text()
    assert told in api.log.read_text()
    assert "Traceback" not in api.log.read_text()


def took_s(api: Process) -> float:
    """From `stopping` to `stopped`."""
    began, ended = (datetime.fromisoformat(event["at"]) for event in api.events()[-2:])
    return (ended - began).total_seconds()


async def refused(api: Process) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False) as fresh:
            await fresh.get(f"{api.client.base_url}/livez")
    except httpx.ConnectError:
        return True
    return False
