"""Files that somebody else may have made: models.yaml, and archives of models."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.catalog import Catalog, load_catalog
from shared.errors import ConfigError
from shared.registry import Registry
from tests.fuzz.bounds import fuzzed
from tests.fuzz.hostile import damaged
from worker.archives import _unpack

MODELS = [
    b"""models:
  bert:
    task: text-embedding
    versions:
      "1": {source: sentence-transformers/all-MiniLM-L6-v2, revision: main, dims: [1, 2.5, null, yes]}
      2: {source: /app/models/bert-v2, quantize: int8, &a x: 1}
    traffic: {"1": 90, 2: 10}
    aliases: {best: "2"}
    limits: {timeout_s: 60, queue: 10, per_key: {requests: 9/minute}}
    batch: {max_size: 4, max_cost: auto, max_wait_ms: 1.5}
  own/one: {handler: "own.py:Own", load: lazy, keep_alive_s: 5, versions: {a: {source: "", day: 2024-01-01}}}
""",
    b"models: {e: {task: echo, versions: {1: &v {a: .inf, b: 0x1F, c: !!binary aGk=}, 2: {<<: *v, d: 12:30:45}}}}",
    b"models: {e: {task: echo, versions: {1: {}}, limits: {timeout_s: .inf}, keep_alive_s: .nan}}",
    b"models: {e: {task: echo, versions: {1: {}, 2: {}}, traffic: {1: .inf, 2: .nan}}}",
    b"models: {e: {task: echo, versions: {1: {a: &a [*a], b: !!set {x, y}, c: !!omap [x: 1]}}}}",
    b"models: {e: {task: echo, versions: {1: {a: 2024-13-45, b: 0x_, c: 2024-01-01T00:00:00Z}}}}",
    b"models: {e: {task: echo, versions: {1: {a: !!python/object/apply:os.system [id]}}}}",
    b"[" * 1000 + b"]" * 1000,
    b"\xff\xfem\0o\0d\0e\0l\0s\0:\0",
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nmodels: {e: {task: echo, versions: {1: {a: *c}}}}",
    b"models: {e: {task: echo, versions: {1: {a: " + b"9" * 5000 + b"}}}}",
    b"models: {e: {task: echo, versions: {1: {source: a, b: [1, {c: d}]}}}}\n--- \nx: y\n",
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as found:
        yield Path(found)


@fuzzed(damaged(MODELS), examples=70)
def test_models_files(folder: Path, text: bytes) -> None:
    """Wrong ones are told; right ones can be written to Redis, and are the same when they are read again: else each
    start would be a change of the models."""
    file = folder / "models.yaml"
    file.write_bytes(text)
    try:
        catalog = load_catalog(file)
    except ConfigError as error:
        refused = error.message
    else:
        refused = ""
    if refused:
        assert str(file) in refused
        return
    written = Registry().with_models(catalog.models, outright=True)
    read = Registry.model_validate_json(written.model_dump_json(exclude_defaults=True))
    assert read.with_models(catalog.models, exact=True) is read
    for spec in catalog.models.values():
        assert int(spec.limits.timeout_s * 1000) >= 0
    for name in catalog.models:
        assert isinstance(Catalog(catalog.models).resolve(name, sticky="x").version, str)


def _tar(mode: str, *members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return out.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, size
    return found


def _zip(*names: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name in names:
            archive.writestr(name, b"x" * 2000)
    return out.getvalue()


def _nameless_zip() -> bytes:
    """Its directory says so: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.12."""
    made = bytearray(_zip("a"))
    entry = made.index(b"PK\1\2")
    made[entry + 28], made[entry + 30] = 0, 1  # the name's length, and the extra field's, which the name becomes
    return bytes(made)


_ALL = [
    _member("model", tarfile.DIRTYPE),
    _member("model/config.json", size=300),
    _member("model/a/../b", size=10),
    _member("model/link", tarfile.SYMTYPE, "config.json"),
    _member("model/hard", tarfile.LNKTYPE, "model/config.json"),
]
_OUT = [
    _member("../out", size=10),
    _member("/ml-out", size=10),
    _member("l", tarfile.SYMTYPE, "../.."),
    _member("l/out"),
]
ARCHIVES = [
    _tar("w", *_ALL),
    _tar("w:gz", *_ALL),
    _tar("w:xz", *_ALL),
    _tar("w:bz2", *_ALL),
    *(_tar("w", _ALL[0], one) for one in _OUT),
    _tar("w", _OUT[2], _OUT[3]),
    _tar("w", _member("dev", tarfile.CHRTYPE), _member("pipe", tarfile.FIFOTYPE)),
    _zip("model/", "model/config.json", "model/a/b.txt"),
    _zip("../out", method=zipfile.ZIP_STORED),
    _zip("a", "a/b"),
    _nameless_zip(),
    _zip("model/\\..\\..\\out", "a" * 300, method=zipfile.ZIP_LZMA),
    _zip("a\0b", method=zipfile.ZIP_BZIP2),
    _zip("a", "b").replace(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0"),  # encrypted, it says
    _zip("a").replace(b"\x14\0\0\0\x08\0", b"\x14\0\0\0\x63\0"),  # by a method that nobody knows
    _tar("w:gz", _member("a", size=100_000))[:-20] + bytes(20),
    gzip.compress(b"not a tar"),
    b"",
]


@fuzzed(damaged(ARCHIVES), examples=60)
def test_archives(folder: Path, data: bytes) -> None:
    """What is unpacked lies in its folder, or the archive is refused."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        file, inside = Path(made, "archive"), Path(made, "in")
        file.write_bytes(data)
        try:
            _unpack("file:///a.tar", file, inside)
        except ConfigError:
            return
        finally:
            assert sorted(os.listdir(made)) == ["archive", "in"]
        for path in inside.rglob("*"):
            assert path.resolve().is_relative_to(inside.resolve())
            assert path.is_file() or path.is_dir() or path.is_symlink()
        assert not Path("/ml-out").exists()
