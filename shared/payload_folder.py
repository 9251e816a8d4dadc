"""A folder as the payload store, on a disk that API and workers share.

An object is written under another name, synced, and renamed: it is there whole or not at all, also after a loss of
power. What a writer that died has left under that other name goes with the object.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared.errors import ConfigError, PayloadsUnavailable

_PART = ".part"


class Folder:
    """See Objects."""

    chunk_bytes = 4_000_000

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def check(self) -> None:
        """See Objects. The folder is not made: a path that is not mounted must not become one on the container's own
        disk."""
        if not self._root.is_dir():
            raise ConfigError(f"{self._root} is no folder")
        probe = self._root / f".probe-{os.getpid()}"
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ConfigError(f"{self._root} takes no files: {error.strerror}") from None

    def put(self, name: str, data: bytes, content_type: str) -> None:
        """See Objects. The type is the reader's to know."""
        path = self._path(name)
        part = path.with_name(path.name + _PART)
        with _refused():
            if not self._root.is_dir():  # else `mkdir` would make what is not mounted
                raise PayloadsUnavailable("the folder of the payload store is not there")
            path.parent.mkdir(exist_ok=True)
            # Other users of this machine have no business here.
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o660), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            _sync(path.parent)

    def get(self, name: str) -> bytes | None:
        """See Objects."""
        with _refused():
            try:
                return self._path(name).read_bytes()
            except FileNotFoundError:
                if self._root.is_dir():
                    return None
                raise

    def size(self, name: str) -> int | None:
        """See Objects."""
        with _refused():
            try:
                return self._path(name).stat().st_size
            except FileNotFoundError:
                if self._root.is_dir():
                    return None
                raise

    def delete(self, names: Sequence[str]) -> None:
        """See Objects."""
        with _refused():
            if not self._root.is_dir():
                raise PayloadsUnavailable("the folder of the payload store is not there")
            for name in names:
                path = self._path(name)
                for one in (path, path.with_name(path.name + _PART)):
                    one.unlink(missing_ok=True)

    def signed_url(self, name: str, seconds: float) -> str | None:
        """There is none."""
        return None

    def _path(self, name: str) -> Path:
        return self._root / name[1:3] / name  # of 256 folders, which stay


def _sync(folder: Path) -> None:
    """The name itself, too, is on the disk."""
    at = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(at)
    finally:
        os.close(at)


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PayloadsUnavailable(f"the folder of the payload store: {error.strerror or 'not there'}") from None
