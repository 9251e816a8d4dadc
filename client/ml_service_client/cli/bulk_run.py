"""A bulk run: the inputs of a file, their results in another, and what is needed to go on after any end.

The results' file itself says how far it is: line n is input n's. Beside it lies `<file>.bulk`, which says what the run
is: the name that its idempotency keys begin with, so that what the service has accepted before the end is found there
and not done twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ml_service_client.cli.ending import Failure, usage

VERSION = 1
SLICE = 1000  # inputs of a batch


@dataclass(frozen=True, slots=True)
class Run:
    """What must be the same when it goes on. `text`: the field that a plain line goes into; `open`: the model takes
    anything; `via`: batches, or jobs where the service has none."""

    name: str
    model: str
    options: dict[str, Any]
    lines: int
    sha256: str
    text: str | None
    open: bool
    via: str
    version: int = VERSION
    slice: int = SLICE

    def key(self, number: int) -> str:
        """The idempotency key of its input, or slice, of this number."""
        return f"bulk-{self.name}-{self.via}-{number}"


def raw_lines(path: Path) -> Iterator[bytes]:
    """The lines that say something."""
    with path.open("rb") as file:
        for line in file:
            if line := line.strip():
                yield line


def measured(path: Path) -> tuple[int, str]:
    """How many inputs there are, and what they are."""
    digest, count = hashlib.sha256(), 0
    try:
        for line in raw_lines(path):
            digest.update(line + b"\n")
            count += 1
    except OSError as error:
        raise usage(f"INPUT: {path}: {error.strerror}") from None
    return count, digest.hexdigest()


def new_name() -> str:
    """Of a run: nobody else's."""
    return uuid.uuid4().hex


class Results:
    """The file of results, and the run beside it. One process at a time."""

    def __init__(self, path: Path) -> None:
        self.path, self._beside = path, path.with_name(path.name + ".bulk")
        self._file: IO[bytes] | None = None
        self.done = self.failed = 0

    def known(self) -> Run | None:
        """The run that was begun here; None: none was. Raises Failure for results that are of no run."""
        try:
            return Run(**json.loads(self._beside.read_bytes()))
        except FileNotFoundError:
            if self.path.exists() and self.path.stat().st_size:
                raise Failure(f"{self.path} is there and of no bulk run: choose another file, or remove it") from None
            return None
        except (ValueError, TypeError):
            raise Failure(f"{self._beside} cannot be read: remove it and {self.path} to begin anew") from None

    def keep(self, run: Run) -> None:
        """In one step, so that it is there as a whole or not at all."""
        fresh = self._beside.with_name(self._beside.name + ".new")
        with fresh.open("w") as file:
            json.dump(asdict(run), file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._beside)

    def open(self) -> None:
        """Goes on behind the last whole line. Raises Failure where another process is at it, or where a line is not
        what a run has written."""
        self.path.touch()
        self._file = self.path.open("r+b")
        try:
            self._go_on(self._file)
        except BaseException:
            self._file.close()
            raise

    def _go_on(self, file: IO[bytes]) -> None:
        _lock(file, self.path)
        good = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            if not line.startswith(b'{"index":%d,"state":"' % self.done):
                raise Failure(f"{self.path}: line {self.done + 1} is not what this run has written there")
            self.failed += not line.startswith(b'{"index":%d,"state":"succeeded"' % self.done)
            self.done += 1
            good += len(line)
        file.seek(good)
        file.truncate()

    def write(self, state: str, **more: Any) -> None:
        """The next line."""
        assert self._file is not None  # noqa: S101 - it is open
        told = {"index": self.done, "state": state, **more}
        self._file.write(json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        self.done += 1
        self.failed += state != "succeeded"

    def close(self) -> None:
        """What was written is on the disk."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._file.fileno())
            self._file.close()


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Failure(f"another bulk run is at {path}") from None
