"""Every kind of Redis that ML_REDIS_URL can name, for real: a server behind a TLS terminator, on a Unix socket, and a
primary with a replica that three sentinel processes watch."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis
import trustme

from local.ports import free_port
from local.server import EmbeddedServer, find_server, tethered
from tests.conftest import wait_until

# The default user stays open for the tests' own eyes; our URLs log in as this one.
LOGIN = ("--user", "ml", "on", ">s3cret/#", "~*", "&*", "+@all")
USER = "ml:s3cret%2F%23"
MASTER, SENTINEL_PASSWORD = "mymaster", "watch"
DOWN_MS = 1000


@contextmanager
def plain(folder: Path) -> Iterator[str]:
    """redis://, with a user and a password."""
    with EmbeddedServer(folder, extra=LOGIN) as server:
        yield f"redis://{USER}@127.0.0.1:{server.port}/1"


@contextmanager
def unix_socket(folder: Path) -> Iterator[str]:
    """redis+socket://."""
    path = folder / "redis.sock"
    with EmbeddedServer(folder, extra=(*LOGIN, "--unixsocket", str(path))):
        yield f"redis+socket://{USER}@{path}?virtual_host=1"


@contextmanager
def tls(folder: Path) -> Iterator[str]:
    """rediss://, with a certificate of an authority of our own."""
    certificates = Certificates(folder)
    with EmbeddedServer(folder / "redis", extra=LOGIN) as server, certificates.before(server.port) as port:
        yield f"rediss://{USER}@127.0.0.1:{port}/1?ssl_ca_certs={certificates.authority}"


@contextmanager
def sentinel(folder: Path) -> Iterator[str]:
    """sentinel://."""
    with Watched(folder) as watched:
        yield watched.url


KINDS = {"redis": plain, "rediss": tls, "redis+socket": unix_socket, "sentinel": sentinel}


class Certificates:
    """An authority of our own, in a folder, and TLS by it in front of servers that have none."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.authority, self._chain = folder / "ca.pem", folder / "server.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(self._chain))

    @contextmanager
    def before(self, target: int) -> Iterator[int]:
        """A port that speaks TLS for the server at `target`."""
        port = free_port()
        command = [sys.executable, str(Path(__file__).with_name("terminator.py")), str(port), str(target)]
        with running([*command, str(self._chain)]):
            wait_until(lambda: _listens(port), what="the TLS port listens")
            yield port


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process until the end of the block; it dies with this one."""
    process = subprocess.Popen(tethered(command, signal.SIGKILL))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Watched:
    """A primary and its replica, and three sentinels that agree on which is which."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        fast = (*LOGIN, "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
        self.primary = EmbeddedServer(folder / "primary", extra=fast)
        self._fast = fast
        self.ports: list[int] = []
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """With the server's login in the first part only, and the sentinels' password."""
        first, *rest = self.ports
        parts = [f"sentinel://{USER}@127.0.0.1:{first}/1", *(f"sentinel://127.0.0.1:{port}" for port in rest)]
        return f"{';'.join(parts)}?master_name={MASTER}&sentinel_password={SENTINEL_PASSWORD}"

    def master(self) -> int:
        """The port of the server that the sentinels call the master now."""
        with self._ask(self.ports[0]) as asked:
            return int(asked.sentinel_get_master_addr_by_name(MASTER)[1])

    def __enter__(self) -> Watched:
        with ExitStack() as stack:
            stack.enter_context(self.primary)
            following = ("--replicaof", "127.0.0.1", str(self.primary.port))
            self.replica = EmbeddedServer(self._folder / "replica", extra=(*self._fast, *following))
            stack.enter_context(self.replica)
            self.ports = [free_port() for _ in range(3)]
            for port in self.ports:
                stack.enter_context(running([find_server(), str(self._configure(port)), "--sentinel"]))
            wait_until(lambda: all(self._knows_all(port) for port in self.ports), what="the sentinels see each other")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _configure(self, port: int) -> Path:
        file = self._folder / f"sentinel-{port}.conf"
        file.write_text(
            f"bind 127.0.0.1\nport {port}\ndir {self._folder}\nloglevel warning\nlogfile {file}.log\n"
            f"requirepass {SENTINEL_PASSWORD}\nsentinel sentinel-pass {SENTINEL_PASSWORD}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {self.primary.port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_MS}\nsentinel failover-timeout {MASTER} 5000\n"
        )
        return file

    def _knows_all(self, port: int) -> bool:
        try:
            with self._ask(port) as asked:
                state = asked.sentinel_masters().get(MASTER, {})
                replicas = asked.sentinel_slaves(MASTER)
        except redis.RedisError:
            return False
        linked = [one for one in replicas if one["master-link-status"] == "ok"]
        return state.get("num-other-sentinels") == 2 and len(linked) == 1

    def _ask(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, password=SENTINEL_PASSWORD, socket_timeout=2, retry=None)
