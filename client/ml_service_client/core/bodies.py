"""What is sent: JSON with bytes and files in it, JSON lines, raw files. Each can be sent again."""

from __future__ import annotations

import base64
import json
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ml_service_client.records import File

_CHUNK = 256 * 1024
_IN_MEMORY = 8 * 1024 * 1024


def encode(value: Any) -> bytes:
    """JSON. Bytes and files (a Path) become base64, an uploaded File its reference, arrays (numpy, torch) lists.
    NaN and infinity are a ValueError: JSON has none."""
    return json.dumps(value, default=_plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Path):
        return base64.b64encode(value.read_bytes()).decode()
    if isinstance(value, File):
        return {"$file": value.id}
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    raise TypeError(f"not JSON: {type(value).__name__}")


class FileSource:
    """A file on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def size(self) -> int:
        """In bytes."""
        return self._path.stat().st_size

    def chunks(self) -> Iterator[bytes]:
        """From the start."""
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk


class OpenSource:
    """An open, seekable binary file, from where it stands."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._start = file, file.tell()

    def size(self) -> int:
        """In bytes."""
        end = self._file.seek(0, 2)
        self._file.seek(self._start)
        return end - self._start

    def chunks(self) -> Iterator[bytes]:
        """From the start."""
        self._file.seek(self._start)
        while chunk := self._file.read(_CHUNK):
            yield chunk


def spooled(chunks: Iterable[bytes]) -> OpenSource:
    """What can be read only once, so that it can be sent twice: in memory up to 8 MB, beyond that on the disk."""
    file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - lives as long as the source
    for chunk in chunks:
        file.write(chunk)
    file.seek(0)
    made = OpenSource(file)
    weakref.finalize(made, file.close)
    return made


def lines(inputs: Iterable[Any]) -> OpenSource:
    """One JSON line for each input."""
    return spooled(encode(one) + b"\n" for one in inputs)


def source(given: bytes | Path | IO[bytes] | Iterable[bytes]) -> bytes | FileSource | OpenSource:
    """A body from whatever a caller has."""
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    if isinstance(given, Path):
        return FileSource(given)
    seekable = getattr(given, "seekable", None)
    if callable(seekable) and seekable():
        return OpenSource(given)  # type: ignore[arg-type]
    return spooled(given)
