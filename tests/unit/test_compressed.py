"""Compressed messages: Celery's own are opened, bombs only as far as the bound."""

from __future__ import annotations

import base64
import bz2
import lzma
import resource
import zlib
from typing import Any

import pytest
from kombu.compression import compress

from worker import compressed
from worker.compressed import open_body


def message(body: bytes, method: Any, **properties: Any) -> dict[str, Any]:
    return {
        "body": base64.b64encode(body).decode(),
        "headers": {"compression": method, "id": "a"},
        "properties": {"body_encoding": "base64", **properties},
    }


@pytest.mark.parametrize("alias", ["gzip", "zlib", "bzip2", "lzma", "xz"])
def test_what_celery_compresses_is_opened(alias: str) -> None:
    given = message(*compress(b'[[], {"a": 1}, {}]', alias))
    open_body(given)
    assert base64.b64decode(given["body"]) == b'[[], {"a": 1}, {}]'
    assert given["headers"] == {"id": "a"}


def test_what_is_not_compressed_is_left() -> None:
    given: dict[str, Any] = {"body": "plain", "headers": {}, "properties": {}}
    open_body(given)
    assert given == {"body": "plain", "headers": {}, "properties": {}}


@pytest.mark.parametrize("squeeze", [zlib.compress, bz2.compress, lzma.compress], ids=["gzip", "bz2", "lzma"])
def test_bombs_are_refused_in_bounded_memory(squeeze: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "MAX_BYTES", 1_000_000)
    kind = {zlib.compress: "application/x-gzip", bz2.compress: "application/x-bz2"}.get(squeeze, "application/x-lzma")
    bomb = squeeze(bytes(80_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="more than 1000000 bytes"):
        open_body(message(bomb, kind))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 60_000, "in KB"


def test_a_dictionary_of_gigabytes_is_not_made() -> None:
    body = bytearray(lzma.compress(b"abc", lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1}]))
    body[1:5] = (3 << 30).to_bytes(4, "little")
    with pytest.raises(ValueError, match="LZMAError"):
        open_body(message(bytes(body), "application/x-lzma"))


@pytest.mark.parametrize(
    "given",
    [
        message(b"abc", "application/x-gzip"),
        message(b"", "application/x-gzip"),
        message(zlib.compress(b"abc")[:-1], "application/x-gzip"),
        message(b"abc", "application/x-bz2"),
        message(b"abc", "application/x-lzma"),
        message(b"abc", "application/zstd"),
        message(b"abc", "gzip"),
        message(b"abc", 7),
        message(zlib.compress(b"abc"), "application/x-gzip", body_encoding="utf-8"),
        message(zlib.compress(b"abc"), "application/x-gzip") | {"body": "%%%"},
    ],
)
def test_what_cannot_be_opened_is_told(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        open_body(given)
