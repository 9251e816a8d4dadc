"""`ml-service pull`, with the hub's own client against a server on loopback that speaks the hub's protocol; then a
worker without network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from tests import models as tiny
from tests.processes import REPOSITORY, api, environment, refused_worker, worker

pytestmark = pytest.mark.long

COMMITS = {"v1": "1" * 40, "main": "2" * 40}


class Hub(BaseHTTPRequestHandler):
    """One repository, `org/tiny`, at two commits: https://huggingface.co/docs/hub/api."""

    protocol_version = "HTTP/1.1"
    folders: dict[str, Path] = {}
    asked: list[str] = []

    def do_GET(self) -> None:
        """What there is, or a file of it."""
        self._answer(True)

    def do_HEAD(self) -> None:
        """A file's size, digest and commit."""
        self._answer(False)

    def _answer(self, with_body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        type(self).asked.append(path)
        headers: dict[str, str] = {}
        if path.startswith("/api/models/org/tiny/revision/"):
            commit = self._commit(path.rpartition("/")[2])
            siblings = [{"rfilename": name} for name in self._files(commit)]
            body = json.dumps({"id": "org/tiny", "sha": commit, "siblings": siblings}).encode()
        elif path.startswith("/api/models/org/tiny/tree/"):
            commit = self._commit(path.rpartition("/")[2])
            files = self._files(commit).items()
            told = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in files]
            body = json.dumps(told).encode()
        elif path.startswith("/org/tiny/resolve/"):
            revision, _, name = path.removeprefix("/org/tiny/resolve/").partition("/")
            commit = self._commit(revision)
            body = (self.folders[commit] / name).read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": commit}
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _files(self, commit: str) -> dict[str, int]:
        """Name: size."""
        folder = self.folders[commit]
        return {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}

    def _commit(self, revision: str) -> str:
        return COMMITS.get(revision, revision)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    tiny.ready_torch()
    folders = {}
    for kind, commit in zip(("bert", "distilbert"), COMMITS.values(), strict=True):
        folders[commit] = tiny.encoder(tmp_path_factory.mktemp("commit"), kind)
        (folders[commit] / "pytorch_model.bin").write_bytes(b"the same weights in another format")
        (folders[commit] / "onnx").mkdir()
        (folders[commit] / "onnx" / "model.onnx").write_bytes(b"and in one more")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Hub,), {"folders": folders, "asked": []}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(
        """
models:
  new: {task: text-embedding, versions: {"1": {source: org/tiny}}}
  old: {task: text-embedding, versions: {"1": {source: org/tiny, revision: v1}}}
"""
    )
    return path


def pull(models: Path, hub: Any, *names: str, **extra: str) -> tuple[int, str]:
    """Exit code and what it said."""
    env = environment("redis://127.0.0.1:1/0", models, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}")
    run = subprocess.run(
        [sys.executable, "-m", "worker", "pull", *names],
        env=env | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"} | extra,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def test_pull_then_serve_without_network(models: Path, hub: Any, redis_url: str, tmp_path: Path) -> None:
    cache = {"MODEL_CACHE_DIR": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
    code, told = pull(models, hub, **cache)
    assert code == 0, (told, hub.RequestHandlerClass.asked)
    rows = {line.split()[0]: line.split()[1] for line in told.splitlines() if "@" in line}
    assert (rows["new@1"], rows["old@1"]) == ("ok", "ok")
    fetched = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert any(path.name == "model.safetensors" for path in fetched)
    assert not [path for path in fetched if path.suffix in (".bin", ".onnx")], "the same weights are not fetched twice"
    offline = cache | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    with (
        worker(redis_url, models, **offline),
        api(redis_url, models) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        seen = {}
        for model in ("new", "old"):
            answer = http.post("/inference", json={"model_type": model, "data": {"text": "a queue"}})
            seen[model] = answer.json()["output"]["embedding"]
    for model, commit in (("new", COMMITS["main"]), ("old", COMMITS["v1"])):
        other = "old" if model == "new" else "new"
        folder = hub.RequestHandlerClass.folders[commit]
        right = tiny_embedding(folder)
        assert sum(a * b for a, b in zip(seen[model], right, strict=True)) > 0.9999
        assert sum(a * b for a, b in zip(seen[other], right, strict=True)) < 0.99


def tiny_embedding(folder: Path) -> list[float]:
    from worker.handlers.text_embedding import TextEmbedding
    from worker.testing import run_handler

    (output,) = run_handler(TextEmbedding, [{"text": "a queue"}], source=str(folder))
    vector: list[float] = output["embedding"]
    return vector


def test_what_is_not_here_is_told_offline(models: Path, hub: Any, redis_url: str, tmp_path: Path) -> None:
    nothing = {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "xdg"), "HF_HUB_OFFLINE": "1"}
    code, told = pull(models, hub, "old", **nothing)
    assert code == 1
    assert "old@1" in told
    assert "HF_HUB_OFFLINE is set, and it is in no cache" in told
    assert "new@1" not in told
    run = refused_worker(environment(redis_url, models) | nothing)
    assert run.returncode == 1
    assert (
        "source 'org/tiny' is neither a file or folder here nor a model that the hub gives: HF_HUB_OFFLINE is set"
        in run.stderr
    )


def test_what_the_hub_does_not_have_is_told(models: Path, hub: Any, tmp_path: Path) -> None:
    nothing = {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    models.write_text("models: {m: {task: text-embedding, versions: {'1': {source: org/none}}}}")
    code, told = pull(models, hub, **nothing)
    assert code == 1
    assert "source 'org/none' is neither a file or folder here nor a model that the hub gives" in told
    assert pull(models, hub, "nobody", **nothing)[0] == 1
    assert os.environ.get("HF_HUB_OFFLINE") == "1"
