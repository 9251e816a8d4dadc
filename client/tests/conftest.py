"""A live service for these tests: the one at ML_CLIENT_TEST_URL (so `make wheel-test` runs them, where no service is
installed), else a worker and an API of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from misbehaving import Proxy

from ml_service_client import MLServiceClient, SyncMLServiceClient

MODELS = Path(__file__).parent / "models.yaml"


def pytest_configure() -> None:
    """A shell gives its background jobs a SIGINT that is ignored, and so would every process that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the service."""
    given = os.environ.get("ML_CLIENT_TEST_URL")
    if given:
        yield given
        return
    from local.embedded import EmbeddedServer
    from tests.processes import api, worker

    with (
        EmbeddedServer(tmp_path_factory.mktemp("redis")) as server,
        worker(server.url, MODELS),
        api(server.url, MODELS, ML_OUTBOUND_ALLOW="127.0.0.0/8") as found,
    ):
        yield found


@pytest.fixture(scope="session")
def bert(url: str) -> None:
    """The model is loaded, which on a busy machine takes longer than a caller waits."""
    with SyncMLServiceClient(url) as client:
        client.wait(client.submit("bert", {"text": "load it"}), timeout_s=100).result()


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    """Before the service; passes all on until told otherwise."""
    with Proxy(url) as running:
        yield running


def wait_until(condition: Callable[[], object]) -> None:
    """Look again until it is true."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


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
