"""The embedded server as tests and benchmarks use it. (`up` starts it as one of its own processes: local/stack.py.)"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from local.ports import free_port
from local.server import answers, find_server, server_command, tethered
from shared.redis_url import parse


class EmbeddedServer:
    """One server process on one folder. `stop` then `start` comes back on the same port with the same data. Its output
    is in `server.log` in the folder. Start it from a thread that outlives it."""

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
