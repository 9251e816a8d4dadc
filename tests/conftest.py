"""Fixtures that every test may use: a real Redis-protocol server, and no key left behind without a TTL."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ML_CALIBRATE_S", "0")  # it would only delay them; tests/unit/test_calibrate.py asks for it

from local.embedded import EmbeddedServer
from shared import keys

if TYPE_CHECKING:
    from tests.payload_places import S3, Place


# The same examples each time, so that a commit is judged by what it changes. `make fuzz` looks for others.
settings.register_profile("same", derandomize=True)
if "FUZZ_TIMES" not in os.environ:
    settings.load_profile("same")


def pytest_configure() -> None:
    """A shell gives its background jobs a SIGINT that is ignored, and so would every process that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is long on a quiet machine may take longer on a busy one, and is no hang yet."""
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(400))


def wait_until(condition: Callable[[], object], *, timeout_s: float = 30.0, what: str = "") -> None:
    """The only waiting in the tests: look again until it is true."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what or condition}"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One server for the whole session."""
    with EmbeddedServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def store(server: EmbeddedServer) -> Iterator[redis.Redis]:
    """An empty database; afterwards no key may be left without a TTL, but for the allow-list of shared/keys.py."""
    client = redis.Redis.from_url(server.url)
    client.flushall()
    yield client
    forever = [key.decode() for key in client.scan_iter(count=1000) if client.ttl(key) == -1]
    client.close()
    strays = [key for key in forever if not keys.NO_TTL.match(key)]
    assert strays == []


@pytest.fixture
def redis_url(server: EmbeddedServer, store: redis.Redis) -> str:
    """The URL of the empty database."""
    return server.url


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A server that speaks S3, for the session, with credentials in this process's environment."""
    from tests.payload_places import CREDENTIALS, s3_server

    with pytest.MonkeyPatch.context() as patch, s3_server() as server:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(params=["redis", "folder", "s3"])
def place(request: pytest.FixtureRequest, store: redis.Redis, tmp_path: Path) -> Place:
    """Each kind of payload store, empty."""
    from tests.payload_places import make_place

    s3 = request.getfixturevalue("s3") if request.param == "s3" else None
    return make_place(request.param, store, tmp_path, s3)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return Path(__file__).parent.parent
