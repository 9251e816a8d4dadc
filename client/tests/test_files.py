"""Uploaded files, and what they stand for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from conftest import Make
from misbehaving import Proxy

from ml_service_client import MLServiceError

CONTENT = bytes(range(256)) * 4000


@pytest.fixture(params=["bytes", "path", "open", "generator"])
def content(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    if request.param == "open":
        with path.open("rb") as opened:
            yield opened
    else:
        pieces = (CONTENT[at : at + 10_000] for at in range(0, len(CONTENT), 10_000))
        yield {"bytes": CONTENT, "path": path, "generator": pieces}[request.param]


def test_upload_and_download(client: Any, content: Any) -> None:
    file = client.upload(content, "image/png")
    assert (file.bytes, file.content_type) == (len(CONTENT), "image/png")
    assert file.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert file.expires_at > file.created_at
    assert client.file(file.id) == file
    assert client.download(file) == CONTENT


def test_a_lost_answer(make: Make, proxy: Proxy, content: Any) -> None:
    proxy.todo = ["lose", "refuse", "pass"]
    client = make(proxy.url)
    assert client.download(client.upload(content)) == CONTENT
    first, second, third, _ = proxy.seen
    assert first == second == third


def test_a_file_as_input(client: Any) -> None:
    file = client.upload(CONTENT, "image/jpeg")
    job = client.submit("digest", {"image": file}, wait_s=20)
    assert job.result() == hashlib.sha256(CONTENT).hexdigest()
    assert list(client.map("digest", [{"image": file}] * 3)) == [job.result()] * 3


def test_delete(client: Any) -> None:
    file = client.upload(b"x")
    client.delete_file(file)
    for gone in (client.file, client.download):
        with pytest.raises(MLServiceError) as caught:
            gone(file)
        assert caught.value.status == 404
