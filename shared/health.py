"""A worker's health file: who it is, and when all of it was last known to work. Others look at it, and replace a
worker that does not move any more.

Nothing heavy is imported: `python -m worker healthcheck` runs every few seconds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

LONGEST_S = 15.0  # a worker that shows no life for so long is stuck
SHORTEST_S = 3.0  # it may hold the interpreter for a moment
_SECOND_LOOK_S = 2.0  # longer than between two signs


@dataclass(frozen=True, slots=True)
class Sign:
    """`at` is `time.monotonic()`, which all processes of a machine share and which no clock change moves; `started` is
    when the process began, in the kernel's words, or empty where it tells none."""

    pid: int
    started: str
    at: float
    limit_s: float

    def late(self) -> bool:
        """No sign of life for too long. (One from the future is of a machine that has started again.)"""
        return not 0 <= time.monotonic() - self.at <= self.limit_s

    def lives(self) -> bool:
        """Whether its process is there: this very one, not another that has got its id."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return started_of(self.pid) == self.started
        return False


def limit_s(beat_s: float) -> float:
    """How long a worker may show no life: three beats, within bounds."""
    return min(LONGEST_S, max(SHORTEST_S, 3 * beat_s))


def started_of(pid: int) -> str:
    """Ticks since the boot, where there is a /proc."""
    try:
        # The second field is the program's name, which may have spaces and parentheses in it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def default_path(worker_name: str = "") -> Path:
    """By the worker's name where one is set, else by the host's: who looks is another process of the same container."""
    return Path(tempfile.gettempdir(), f"ml-worker-{worker_name or socket.gethostname()}.alive")


def path_from_environment() -> Path:
    """As the settings `health_file` and `worker_name` would have it."""
    named = os.environ.get("ML_HEALTH_FILE")
    return Path(named) if named else default_path(os.environ.get("ML_WORKER_NAME", ""))


def write(path: Path, sign: Sign) -> None:
    """Raises OSError. Who reads sees the old one or this one."""
    fresh = path.with_name(f"{path.name}.{sign.pid}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w") as file:
        json.dump(asdict(sign), file)
    fresh.replace(path)


def read(path: Path) -> Sign | None:
    """None where no worker has been ready, and for a file that is not ours: somebody else's must not tell us whom to
    kill."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)) as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            return Sign(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None


def stuck(path: Path) -> Sign | None:
    """The worker that was ready and shows no life any more. In doubt this takes two seconds: where all has stood still
    (a paused container or machine), the worker gets a moment too."""
    sign = read(path)
    if sign is None or not sign.late() or not sign.lives():
        return None
    time.sleep(_SECOND_LOOK_S)
    return sign if read(path) == sign and sign.lives() else None


def check(path: Path, *, replace: bool) -> int:
    """0 when the worker lives. With `replace` one that is stuck is killed, to be started again by whoever runs it; one
    that is starting, or is gone, is left alone."""
    sign = stuck(path)
    if sign is None:
        seen = read(path)
        return 0 if seen is not None and seen.lives() and not seen.late() else 1
    if replace and sign.started:
        _say(f"process {sign.pid} has shown no life for {time.monotonic() - sign.at:.0f} s: killing it")
        if sign.pid == 1:
            _say(
                "it is process 1 of its container, which the kernel protects from that: run the container with an init"
            )
        os.kill(sign.pid, signal.SIGKILL)
    return 1


def _say(text: str) -> None:
    print(f"healthcheck: {text}", file=sys.stderr)  # noqa: T201 - the answer to a command
