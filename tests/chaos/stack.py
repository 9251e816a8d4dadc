"""The stack under test: a Redis of its own, two API processes on one port, workers; started, killed and started again.
Linux only (/proc). Nothing of it outlives this process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis

from local.embedded import EmbeddedServer
from local.server import tethered
from tests.chaos import access

REPOSITORY = Path(__file__).parents[2]
START_S, STOP_S = 60.0, 60.0
_TWO_STREAMS = {"ML_DEVICE": "cpu", "ML_TORCH_THREADS": "2"}  # batches side by side, whatever machine this is


def until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Look again until it is true. Raises TimeoutError."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.005)


class Process:
    """One start of one program. `name` is never used again."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, env: dict[str, str], fds: Sequence[int] = ()
    ) -> None:
        self.name, self.log = name, log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                tethered([sys.executable, *command], signal.SIGKILL),
                env=os.environ | env,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=fds,
            )

    @property
    def pid(self) -> int:
        """tether.py becomes the program, so it is this one's."""
        return self.popen.pid

    def lives(self) -> bool:
        """It has not ended."""
        return self.popen.poll() is None

    def said(self, words: str) -> bool:
        """Whether its log has these words."""
        return words in self.log.read_text(errors="replace")

    def wait_for(self, words: str) -> None:
        """Until its log has these words. Raises RuntimeError with the log's tail when it ends before."""
        until(lambda: self.said(words) or not self.lives(), START_S, f"{self.name} says {words!r}")
        if not self.lives():
            raise RuntimeError(f"{self.name} has ended: " + "\n".join(self.log.read_text().splitlines()[-20:]))

    def ended(self, within_s: float) -> None:
        """Wait for its end. Raises TimeoutError."""
        until(lambda: not self.lives(), within_s, f"{self.name} ends")

    def freeze(self) -> None:
        """SIGSTOP, and wait until it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        until(lambda: _state(self.pid) in "TtZ", 10, f"{self.name} stands still")

    def thaw(self, *signals: signal.Signals) -> None:
        """It goes on, these signals first."""
        for one in signals:
            os.kill(self.pid, one)
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code. Killed after a minute (then -9)."""
        self.popen.terminate()
        return self.wait()

    def wait(self) -> int:
        """The exit code of one that was told to stop."""
        try:
            return self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9


class Stack:
    """A context: all is up when it is entered, nothing runs when it is left."""

    client: Any  # redis.Redis, whose own annotations are for its asynchronous twin, too

    def __init__(self, folder: Path, *, models: str, env: dict[str, str], workers: int, apis: int) -> None:
        self.folder, self.journal = folder, folder / "journal.jsonl"
        self.server = EmbeddedServer(folder / "redis")
        self._models, self._env = folder / "models.yaml", env
        self._models.write_text(models)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._started: list[Process] = []
        self.workers: list[Process] = []
        self.apis: list[Process] = []
        self._sizes = workers, apis

    def __enter__(self) -> Stack:
        self.server.start()
        self.client = redis.Redis.from_url(self.server.url, socket_timeout=60)
        access.make_keys(self.client)
        try:
            self.workers = [self.begin_worker() for _ in range(self._sizes[0])]
            self.apis = [self.begin_api() for _ in range(self._sizes[1])]
            for process in self.workers + self.apis:
                self.ready(process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.lives():
                process.kill()
        self._listener.close()
        self.client.close()
        self.server.kill()

    def begin_worker(self) -> Process:
        """A new one, not yet ready."""
        name = self._name("worker")
        return self._part(name, {"CHAOS_JOURNAL": str(self.journal), "ML_WORKER_NAME": name, **_TWO_STREAMS})

    def begin_api(self, **own: str) -> Process:
        """A new one on the same port, not yet ready."""
        fd = self._listener.fileno()
        return self._part(self._name("api"), {"ML_LISTEN_FD": str(fd), **own}, [fd])

    def ready(self, process: Process) -> None:
        """Until it serves."""
        process.wait_for('"worker_ready"' if process.name.startswith("worker") else '"started"')

    def caller(self, program: str, *options: str) -> Process:
        """A process of callers."""
        return self._begin(self._name(program), [f"tests.chaos.{program}", *options], {})

    def _part(self, name: str, own: dict[str, str], fds: Sequence[int] = ()) -> Process:
        env = {"ML_REDIS_URL": self.server.url, "ML_MODELS_FILE": str(self._models), "ML_LOG_FORMAT": "json"}
        return self._begin(name, [name.partition("-")[0]], env | self._env | own, fds)

    def _begin(self, name: str, module: Sequence[str], env: dict[str, str], fds: Sequence[int] = ()) -> Process:
        process = Process(name, ["-m", *module], log=self.folder / f"{name}.log", env=env, fds=fds)
        self._started.append(process)
        return process

    def _name(self, kind: str) -> str:
        return f"{kind}-{len(self._started) + 1}"


def _state(pid: int) -> str:
    """R, S, T ... of /proc; Z when it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def connections(pid: int, port: int) -> int:
    """Established TCP connections that this process has accepted on this port."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(fd)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local_port = int(fields[1].rpartition(":")[2], 16)
        count += local_port == port and fields[3] == "01" and fields[9] in inodes
    return count
