"""Servers that cannot be used are refused with the reason, and certificates are looked at by every library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import trustme

from local.embedded import EmbeddedServer
from shared.errors import ConfigError, StoreTooOld, StoreUnavailable
from shared.queue import make_celery
from shared.settings import Settings
from shared.store import aconnect, check_server, connect, refuse_unfit
from tests.processes import environment, refused_worker
from tests.redis_kinds import KINDS, Watched, tls
from tests.stock_celery import close_celery

COMMANDS = ("api", "worker", "api deliver", "api keys list", "local up")


def _refused(command: str, url: str, tmp_path: Path) -> str:
    """What a process says that does not start."""
    models = tmp_path / "models.yaml"
    models.write_text('models: {echo: {task: echo, versions: {"1": {}}}}')
    env = environment(url, models, ML_PORT="0", ML_DATA_DIR=str(tmp_path / "data"))
    run = refused_worker(env, *command.split())
    assert run.returncode > 0
    assert "Traceback" not in run.stderr
    return run.stdout + run.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_cluster_is_refused(command: str, tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "redis", extra=("--cluster-enabled", "yes")) as server:
        told = _refused(command, server.url, tmp_path)
    assert "this is a Redis Cluster" in told
    assert "Redis or Valkey without cluster-enabled, which Sentinel can fail over" in told


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused(policy: str, tmp_path: Path) -> None:
    """Also one that evicts only what has a TTL: nearly all of a job has one."""
    with EmbeddedServer(tmp_path / "redis", extra=("--maxmemory-policy", policy)) as server:
        told = _refused("api", server.url, tmp_path)
        with connect(Settings(redis_url=server.url)) as client, pytest.raises(ConfigError, match="noeviction"):
            check_server(client)
    assert f"maxmemory-policy {policy}" in told


def test_a_user_who_may_not_even_ask_is_told_so(tmp_path: Path) -> None:
    user = ("--user", "ml", "on", ">hunter2", "~*", "&*", "+@all", "-info")
    with EmbeddedServer(tmp_path / "redis", extra=user) as server:
        url = f"redis://ml:hunter2@127.0.0.1:{server.port}/0"
        told = _refused("api", url, tmp_path)
        with connect(Settings(redis_url=url)) as client, pytest.raises(ConfigError, match="must be allowed"):
            check_server(client)
    assert "'info' command" in told
    assert "hunter2" not in told


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_wrong_url_is_refused(command: str, tmp_path: Path) -> None:
    told = _refused(command, "sentinel://:hunter2@127.0.0.1:1/0", tmp_path)
    assert "ML_REDIS_URL" in told
    assert "master_name" in told
    assert "hunter2" not in told


def test_a_sentinel_is_no_server(tmp_path: Path) -> None:
    with Watched(tmp_path) as watched:
        url = f"redis://:w4tchword@127.0.0.1:{watched.sentinels[0]}/0"
        with connect(Settings(redis_url=url)) as client, pytest.raises(ConfigError, match="this is a sentinel"):
            check_server(client)


def test_sentinels_that_know_no_such_master(tmp_path: Path) -> None:
    with Watched(tmp_path) as watched:
        url = watched.url.replace("mymaster", "another")
        with connect(Settings(redis_url=url)) as client, pytest.raises(StoreUnavailable, match="no sentinel names"):
            check_server(client)


def test_an_old_server_is_refused() -> None:
    with pytest.raises(StoreTooOld, match=r"6\.2\.14"):
        refuse_unfit({"redis_version": "6.2.14"})


def _sync(settings: Settings) -> None:
    with connect(settings) as client:
        client.ping()


def _broker(settings: Settings) -> None:
    app = make_celery(settings)
    with app.connection() as connection:
        connection.connect()
    app.close()


def _results(settings: Settings) -> None:
    app = make_celery(settings)
    try:
        app.backend.client.ping()
    finally:
        close_celery(app)


@pytest.mark.parametrize("use", [_sync, _results])
def test_a_dead_sentinel_is_passed_over(use: Callable[[Settings], None], tmp_path: Path) -> None:
    with Watched(tmp_path) as watched:
        use(Settings(redis_url=f"sentinel://127.0.0.1:1;{watched.url}"))


async def test_a_dead_sentinel_is_passed_over_by_the_api_too(tmp_path: Path) -> None:
    with Watched(tmp_path) as watched:
        async with aconnect(Settings(redis_url=f"sentinel://127.0.0.1:1;{watched.url}")) as client:
            assert await client.ping()


@pytest.mark.long
# A peer that hangs up during the handshake: redis-py leaves the socket to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["rediss", "sentinel-tls"])
@pytest.mark.parametrize("use", [_sync, _broker, _results])
def test_a_certificate_of_another_authority_is_refused(
    kind: str, use: Callable[[Settings], None], tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with KINDS[kind](tmp_path / "redis") as url:
        use(Settings(redis_url=url))
        place, _, authority = url.partition("ssl_ca_certs=")
        assert authority
        with pytest.raises((redis.ConnectionError, OSError)):
            use(Settings(redis_url=f"{place}ssl_ca_certs={other}"))
        with pytest.raises((redis.ConnectionError, OSError)):
            use(Settings(redis_url=f"{place}ssl_cert_reqs=required"))
        use(Settings(redis_url=f"{place}ssl_cert_reqs=none"))


@pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("use", [_sync, _broker, _results])
def test_a_server_that_asks_for_a_certificate_of_ours_gets_it(use: Callable[[Settings], None], tmp_path: Path) -> None:
    with tls(tmp_path / "redis") as url:
        use(Settings(redis_url=url))
        place, query = url.split("?")
        without = "&".join(part for part in query.split("&") if part.startswith("ssl_ca_certs"))
        with pytest.raises((redis.ConnectionError, OSError)):
            use(Settings(redis_url=f"{place}?{without}"))


@pytest.mark.parametrize("kind", ["rediss", "sentinel-tls"])
async def test_also_by_the_api(kind: str, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with KINDS[kind](tmp_path / "redis") as url:
        async with aconnect(Settings(redis_url=url)) as client:
            assert await client.ping()
        place = url.partition("ssl_ca_certs=")[0]
        async with aconnect(Settings(redis_url=f"{place}ssl_ca_certs={other}")) as client:
            with pytest.raises((redis.ConnectionError, OSError)):
                await client.ping()
