"""Model files in an archive, `file:///path/model.tar.gz` or `s3://bucket/key.zip`: fetched, checked and unpacked once.

What is unpacked lies under its SHA-256. It is made beside and renamed, under a lock that the workers of one host share,
so nobody sees half of it and nobody makes it twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.errors import ConfigError
from shared.model_spec import FILE_URL, S3_URL
from shared.settings import Settings
from worker.cache import cache_folders, writable_cache

_CHUNK = 1 << 20
_LEAST_BOUND = 1 << 30
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_MOST_TIMES = 20  # larger than the archive: weights hardly shrink


def is_archive(source: str) -> bool:
    """Whether this module has to do with it."""
    return source.startswith((FILE_URL, S3_URL))


def archive_folder(source: str, sha256: str | None, settings: Settings) -> Path:
    """The folder that it holds: its only one, or all of it. Raises ConfigError for an archive that cannot be had, is
    not the one of that digest, or holds what no archive of model files does."""
    if sha256 and (found := cached_archive(sha256, settings)) is not None:
        return found
    cache = writable_cache(settings, "archives")
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as folder:
        file = Path(folder, "archive")
        digest = _fetch(source, file)
        if sha256 and digest != sha256:
            raise ConfigError(f"source {source}: its SHA-256 is {digest}, and models.yaml says {sha256}")
        with _locked(cache / f"{digest}.lock"):
            if not (cache / digest).is_dir():
                _unpack(source, file, Path(folder, "unpacked"))
                Path(folder, "unpacked").rename(cache / digest)
    return _root(cache / digest)


def cached_archive(sha256: str, settings: Settings) -> Path | None:
    """Where it has been unpacked before; None if it has not."""
    for folder in cache_folders(settings, "archives"):
        if (folder / sha256).is_dir():
            return _root(folder / sha256)
    return None


def _root(folder: Path) -> Path:
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _fetch(source: str, to: Path) -> str:
    """Its SHA-256."""
    digest = hashlib.sha256()
    with to.open("wb") as output:
        for part in _read_s3(source) if source.startswith(S3_URL) else _read_file(source):
            digest.update(part)
            output.write(part)
    return digest.hexdigest()


def _read_file(source: str) -> Iterator[bytes]:
    try:
        with Path(unquote(urlsplit(source).path)).open("rb") as file:
            while part := file.read(_CHUNK):
                yield part
    except OSError as error:
        raise ConfigError(f"source {source}: {error.strerror}") from None


def _read_s3(source: str) -> Iterator[bytes]:
    """Keys, region and endpoint as boto3 finds them: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, a role ..."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise ConfigError(f"source {source}: boto3 is not installed; pip install boto3") from None
    place = urlsplit(source)
    try:
        body = boto3.client("s3").get_object(Bucket=place.netloc, Key=unquote(place.path.lstrip("/")))["Body"]
        yield from body.iter_chunks(_CHUNK)
    except (BotoCoreError, ClientError) as error:
        raise ConfigError(f"source {source}: {error}") from None


def _unpack(source: str, file: Path, to: Path) -> None:
    bound = max(_LEAST_BOUND, _MOST_TIMES * file.stat().st_size)
    to.mkdir()
    try:
        if zipfile.is_zipfile(file):
            _unpack_zip(file, to, bound)
        else:
            _unpack_tar(file, to, bound)
    # RuntimeError: encrypted, or by a method that zipfile does not know.
    except (*_BROKEN, EOFError, OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"source {source}: not unpacked: {error}") from error


def _unpack_tar(file: Path, to: Path, bound: int) -> None:
    """The filter `data` refuses what points out of the folder, devices, and strange modes (PEP 706)."""
    total = 0
    with tarfile.open(file) as archive:
        for member in archive:
            total += member.size
            if total > bound:
                raise ValueError(f"it would take more than {bound} bytes")
            archive.extract(member, to, filter="data")


def _unpack_zip(file: Path, to: Path, bound: int) -> None:
    with zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > bound:
            raise ValueError(f"it would take more than {bound} bytes")
        for member in archive.infolist():
            if not member.filename:  # `is_dir` of Python 3.11 would raise IndexError
                raise ValueError("a member has no name")
            target = (to / member.filename).resolve()
            if not target.is_relative_to(to.resolve()):
                raise ValueError(f"{member.filename!r} lies outside of it")
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as content, target.open("wb") as output:  # a link becomes a file with its text
                shutil.copyfileobj(content, output, _CHUNK)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
