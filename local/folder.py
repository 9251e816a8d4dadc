"""The data folder of one `up`: its lock, and state.json, which tells tools what runs."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import TypedDict

from shared.beside import STATE_FILE
from shared.errors import ConfigError
from shared.processes import lives


class State(TypedDict):
    """state.json. `processes` holds those that run now: api (api-1 .. where there are several), worker-1 .., flower,
    and redis if it is ours."""

    api_url: str
    flower_url: str
    redis_url: str
    processes: dict[str, int]


class DataFolder:
    """Locked from `lock` to `release`. The embedded server inherits `lock_fd`, so the lock ends only when the server
    too is gone, and no second one can write its files, even after a kill -9 of the first `up`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state_file = path / STATE_FILE
        self.lock_fd = -1

    def lock(self, patience_s: float = 15.0) -> None:
        """Raises ConfigError that names the holder's pid. A holder that is dead, whose server is still flushing, is
        waited for `patience_s` seconds."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)  # jobs' inputs and outputs lie in it
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"--data-dir {self.path}: {error.strerror}") from None
        give_up = time.monotonic() + patience_s
        while not _locked(fd):
            holder = int(os.pread(fd, 20, 0) or 0)
            if lives(holder) or time.monotonic() > give_up:
                os.close(fd)
                raise ConfigError(
                    f"another `ml-service up` (pid {holder}) runs on the data folder {self.path}; "
                    "stop it, or give this one its own with --data-dir"
                )
            time.sleep(0.05)
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        self.lock_fd = fd
        self.state_file.unlink(missing_ok=True)  # a killed one leaves it behind

    def write(self, state: State) -> None:
        """Atomically: a reader sees the old or the new one, whole."""
        draft = self.path / f"{STATE_FILE}.new"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # redis_url may hold a password
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(state, file, indent=2)
        draft.replace(self.state_file)

    def release(self) -> None:
        """A clean stop: nothing runs any more."""
        if self.lock_fd >= 0:
            self.state_file.unlink(missing_ok=True)
            os.close(self.lock_fd)
            self.lock_fd = -1


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
