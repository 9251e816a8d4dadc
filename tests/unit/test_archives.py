"""Model files in archives: checked, unpacked once, and never out of their folder. S3 by boto3, over loopback."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shared.catalog import load_catalog
from shared.errors import ConfigError
from shared.settings import Settings
from worker.archives import archive_folder, cached_archive


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    return Settings(models_file=tmp_path / "models.yaml", MODEL_CACHE_DIR=tmp_path / "cache")


def tar(path: Path, files: dict[str, str], change: Callable[[tarfile.TarInfo], Any] = lambda _: None) -> str:
    """Its SHA-256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            change(member)
            archive.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_in(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def kept(own: Settings) -> list[str]:
    """In the cache, but for locks."""
    assert own.model_cache_dir is not None
    return sorted(path.name for path in (own.model_cache_dir / "archives").iterdir() if path.suffix != ".lock")


def test_the_only_folder_of_an_archive_or_all_of_it(own: Settings, tmp_path: Path) -> None:
    digest = tar(tmp_path / "a.tar.gz", {"bert/config.json": "{}", "bert/deep/x": "1"})
    folder = archive_folder(f"file://{tmp_path}/a.tar.gz", digest, own)
    assert files_in(folder) == {"config.json": "{}", "deep/x": "1"}
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("deep/x", "1")
    assert files_in(archive_folder(f"file://{tmp_path}/b.zip", None, own)) == {"config.json": "{}", "deep/x": "1"}
    (tmp_path / "a.tar.gz").unlink()
    assert archive_folder(f"file://{tmp_path}/a.tar.gz", digest, own) == folder, "unpacked once"
    assert cached_archive(digest, own) == folder
    assert cached_archive("0" * 64, own) is None


def test_another_digest_is_told_and_leaves_nothing(own: Settings, tmp_path: Path) -> None:
    digest = tar(tmp_path / "a.tar.gz", {"x": "1"})
    with pytest.raises(ConfigError, match=f"its SHA-256 is {digest}, and models.yaml says {'0' * 64}"):
        archive_folder(f"file://{tmp_path}/a.tar.gz", "0" * 64, own)
    assert kept(own) == []


def link(member: tarfile.TarInfo) -> None:
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"


def device(member: tarfile.TarInfo) -> None:
    member.type = tarfile.CHRTYPE


@pytest.mark.parametrize(
    ("name", "change"),
    [("../out", lambda _: None), ("a/../../out", lambda _: None), ("link", link), ("null", device)],
)
def test_nothing_leaves_the_folder(own: Settings, tmp_path: Path, name: str, change: Any) -> None:
    tar(tmp_path / "a.tar.gz", {name: "x"}, change)
    with pytest.raises(ConfigError, match="not unpacked"):
        archive_folder(f"file://{tmp_path}/a.tar.gz", None, own)
    assert kept(own) == []
    assert not list(tmp_path.rglob("out"))


def test_nothing_leaves_the_folder_of_a_zip(own: Settings, tmp_path: Path) -> None:
    for name in ("../out", "/out"):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(name, "x")
        with pytest.raises(ConfigError, match="lies outside of it"):
            archive_folder(f"file://{tmp_path}/a.zip", None, own)
    assert kept(own) == []


@pytest.mark.long
def test_a_bomb_is_not_unpacked(own: Settings, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            with archive.open(f"zeros-{number}", "w", force_zip64=True) as member:
                for _ in range(400):
                    member.write(bytes(1 << 20))
    with pytest.raises(ConfigError, match="more than 1073741824 bytes"):
        archive_folder(f"file://{tmp_path}/a.zip", None, own)
    (tmp_path / "b.tar.gz").write_bytes(b"no archive at all")
    with pytest.raises(ConfigError, match="not unpacked"):
        archive_folder(f"file://{tmp_path}/b.tar.gz", None, own)
    with pytest.raises(ConfigError, match="No such file"):
        archive_folder(f"file://{tmp_path}/none.tar", None, own)
    assert kept(own) == []


def test_many_at_once_make_it_once(own: Settings, tmp_path: Path) -> None:
    digest = tar(tmp_path / "a.tar.gz", {f"m/{number}": "x" * 1000 for number in range(200)})
    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(archive_folder, f"file://{tmp_path}/a.tar.gz", digest, own) for _ in range(16)]
    assert {len(files_in(one.result())) for one in tries} == {200}
    assert kept(own) == [digest]


def test_a_cache_that_is_mounted_for_reading_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is new goes to the service's own. (A file in the place of a folder: root may write to any folder.)"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "archives").touch()
    own = Settings(MODEL_CACHE_DIR=tmp_path / "cache")
    tar(tmp_path / "a.tar.gz", {"x": "1"})
    assert archive_folder(f"file://{tmp_path}/a.tar.gz", None, own).is_relative_to(tmp_path / "home" / "ml-service")


class Bucket(BaseHTTPRequestHandler):
    """GetObject of S3's REST protocol, for path-style addresses."""

    objects: dict[str, bytes] = {}
    asked: list[str] = []

    def do_GET(self) -> None:
        """The object, or S3's error document."""
        type(self).asked.append(self.path)
        body = self.objects.get(self.path)
        status = 200 if body is not None else 404
        if body is None:
            body = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Bucket,), {"objects": {}, "asked": []}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    yield server.RequestHandlerClass  # type: ignore[misc]
    server.shutdown()
    server.server_close()


def test_s3(own: Settings, tmp_path: Path, bucket: type[Bucket]) -> None:
    digest = tar(tmp_path / "a.tar.gz", {"config.json": "{}", "big": "x" * 3_000_000})
    bucket.objects["/models/team/a.tar.gz"] = (tmp_path / "a.tar.gz").read_bytes()
    folder = archive_folder("s3://models/team/a.tar.gz", digest, own)
    assert len(files_in(folder)["big"]) == 3_000_000
    archive_folder("s3://models/team/a.tar.gz", digest, own)
    assert len(bucket.asked) == 1, "what is here is not fetched again"
    with pytest.raises(ConfigError, match="NoSuchKey"):
        archive_folder("s3://models/none.tar.gz", "1" * 64, own)


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (
            "{source: 's3://b/a.tar.gz'}",
            "line 4: models.m.versions.1: Value error, source s3://b/a.tar.gz needs its sha256",
        ),
        ("{source: 'file:///a.rar'}", "is no archive that is known: .tar, .tar.gz"),
        ("{source: a, sha256: abc}", "models.m.versions.1.sha256: String should match pattern"),
        (f"{{source: a, sha256: '{'0' * 64}'}}", "sha256 is of an archive"),
        ("{source: 'package:a', revision: main}", "revision is of a hub id"),
        ("{source: '/a/folder', revision: main}", "revision is of a hub id"),
        ("{source: 'torchvision:a', revision: main}", "revision is of a hub id"),
    ],
)
def test_what_does_not_fit_is_told_by_its_line(tmp_path: Path, version: str, told: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(f"models:\n  m:\n    task: text-embedding\n    versions: {{'1': {version}}}\n")
    with pytest.raises(ConfigError) as refused:
        load_catalog(file)
    assert told in refused.value.message
    file.write_text(
        "models: {m: {task: text-embedding, versions: "
        "{a: {source: org/m, revision: v1}, b: {source: 'hub:m', revision: x}}}}"
    )
    assert load_catalog(file).spec("m").versions["a"].revision == "v1"
