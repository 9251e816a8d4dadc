"""Every kind of Redis that ML_REDIS_URL can name, for real: a server behind TLS, on a Unix socket, and a primary with
a replica that three sentinel processes watch."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import unquote

import redis
import trustme

from local.embedded import EmbeddedServer
from local.ports import free_port
from local.server import find_server, tethered
from tests.conftest import wait_until

# The default user stays open, for the sentinels and the tests' own eyes; our URLs log in as this one.
LOGIN = ("--user", "ml", "on", ">s3cret/#", "~*", "&*", "+@all")
USER = "ml:s3cret%2F%23"
PASSWORD = unquote(USER.partition(":")[2])
MASTER, WATCHWORD = "mymaster", "w4tchword"
REPLICATING = (*LOGIN, "--repl-diskless-sync-delay", "0", "--replica-announce-ip", "127.0.0.1")
DOWN_MS = 1000  # so long without an answer: a sentinel takes the server for down


@contextmanager
def plain(folder: Path) -> Iterator[str]:
    """redis://"""
    with EmbeddedServer(folder, extra=LOGIN) as server:
        yield f"redis://{USER}@127.0.0.1:{server.port}/1"


@contextmanager
def unix_socket(folder: Path) -> Iterator[str]:
    """redis+socket://"""
    path = folder / "redis.sock"
    with EmbeddedServer(folder, extra=(*LOGIN, "--unixsocket", str(path))):
        yield f"redis+socket://{USER}@{path}?virtual_host=1"


@contextmanager
def tls(folder: Path) -> Iterator[str]:
    """rediss://, with certificates of an authority of our own, the client's too."""
    with EmbeddedServer(folder / "redis", extra=LOGIN) as server, Front(folder, server.port, mutual=True) as front:
        own = f"ssl_certfile={front.client.with_suffix('.pem')}&ssl_keyfile={front.client.with_suffix('.key')}"
        yield f"rediss://{USER}@127.0.0.1:{front.port}/1?{own}&ssl_ca_certs={front.authority}"


@contextmanager
def managed(folder: Path) -> Iterator[str]:
    """rediss:// of a server that is somebody else's: a user with the rights that docs/configuration.md asks for, and no
    more, and commands that are not there at all. Nothing may have been denied."""
    user = ("--user", "ml", "on", f">{PASSWORD}", *least_rights().split())
    gone = [word for name in ("CONFIG", "DEBUG", "KEYS", "MONITOR", "SAVE") for word in ("--rename-command", name, "")]
    with (
        EmbeddedServer(folder / "redis", extra=(*user, *gone)) as server,
        Front(folder, server.port) as front,
        redis.Redis(port=server.port) as administrator,
    ):
        yield f"rediss://{USER}@127.0.0.1:{front.port}/1?ssl_ca_certs={front.authority}"
        assert administrator.acl_log() == []


def least_rights() -> str:
    """Of the ACL line in the docs."""
    page = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()
    found = re.search(r"^user ml on >PASSWORD (.+)$", page, re.MULTILINE)
    assert found is not None
    return found[1]


@contextmanager
def sentinel(folder: Path) -> Iterator[str]:
    """sentinel://"""
    with Watched(folder) as watched:
        yield watched.url


@contextmanager
def sentinel_tls(folder: Path) -> Iterator[str]:
    """sentinel://, all of it by TLS."""
    with Watched(folder, by_tls=True) as watched:
        yield watched.url


KINDS = {
    "redis": plain,
    "rediss": tls,
    "redis+socket": unix_socket,
    "managed": managed,
    "sentinel": sentinel,
    "sentinel-tls": sentinel_tls,
}


class Front:
    """A port in front of a server, which speaks TLS too. `lead_to` another one: new connections go there. `mutual`: by
    TLS only for the holder of the certificate and key `client`."""

    def __init__(self, folder: Path, target: int = 0, *, mutual: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.authority = folder / "ca.pem"
        self.client = folder / "client"
        self._mutual = mutual
        self._chain, self._target = folder / f"{self.port}.pem", folder / f"{self.port}.target"
        self.lead_to(target)

    def lead_to(self, target: int) -> None:
        """From now on."""
        self._target.write_text(str(target))

    def __enter__(self) -> Front:
        authority = _authority(self.authority)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(self._chain))
        program = str(Path(__file__).with_name("terminator.py"))
        command = [sys.executable, program, str(self.port), str(self._target), str(self._chain)]
        if self._mutual:
            own = authority.issue_cert("client")
            own.cert_chain_pems[0].write_to_path(str(self.client.with_suffix(".pem")))
            own.private_key_pem.write_to_path(str(self.client.with_suffix(".key")))
            command.append(str(self.authority))
        self._process = subprocess.Popen(tethered(command, signal.SIGKILL))
        wait_until(self._listens, what="the port in front listens")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _authority(certificate: Path) -> trustme.CA:
    """One a folder."""
    key = certificate.with_suffix(".key")
    if key.exists():
        return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(certificate))
    authority.private_key_pem.write_to_path(str(key))
    return authority


class Watched:
    """A primary and its replicas, and three sentinels that agree on which is which. `by_tls`: clients reach all of
    them by TLS, while they speak plainly among themselves. `guarded`: a primary without a replica takes no writes."""

    def __init__(self, folder: Path, *, by_tls: bool = False, guarded: bool = False, replicas: int = 1) -> None:
        self._folder, self._by_tls, self._replicas = folder, by_tls, replicas
        self._options = (*REPLICATING, "--min-replicas-to-write", "1") if guarded else REPLICATING
        self._stack = ExitStack()
        self.primary = self.replica = EmbeddedServer(folder)  # `replica`: the first of them
        self.sentinels: list[int] = []
        self._doors: list[int] = []

    @property
    def url(self) -> str:
        """With the server's login in the first part only, and the sentinels' password."""
        first, *rest = self._doors
        parts = [f"sentinel://{USER}@127.0.0.1:{first}/1", *(f"sentinel://127.0.0.1:{port}" for port in rest)]
        safe = f"&ssl_ca_certs={self._folder / 'ca.pem'}" if self._by_tls else ""
        return f"{';'.join(parts)}?master_name={MASTER}&sentinel_password={WATCHWORD}{safe}"

    def master(self) -> int:
        """The port that the first sentinel calls the master's now."""
        with self.ask(self.sentinels[0]) as asked:
            return int(asked.sentinel_get_master_addr_by_name(MASTER)[1])

    def ask(self, port: int) -> redis.Redis:
        """A client of one sentinel."""
        return redis.Redis(port=port, password=WATCHWORD, socket_timeout=2, retry=None)

    def __enter__(self) -> Watched:
        with ExitStack() as stack:
            self.primary, at = self._server(stack, "primary")
            following = ("--replicaof", "127.0.0.1", str(at))
            self.replica, _ = self._server(stack, "replica", *following)
            for number in range(1, self._replicas):
                self._server(stack, f"replica-{number}", *following)
            for _ in range(3):
                self._sentinel(stack, at)
            wait_until(lambda: all(map(self._knows_all, self.sentinels)), what="the sentinels see each other")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        # It ends with the last connection of this process; under its hands a TLS port must not go.
        wait_until(lambda: all(thread.name != "follower" for thread in threading.enumerate()), what="nobody follows")
        self._stack.close()

    def _server(self, stack: ExitStack, name: str, *extra: str) -> tuple[EmbeddedServer, int]:
        """The server and the port at which all find it."""
        port = free_port()
        front = stack.enter_context(Front(self._folder, port)) if self._by_tls else None
        at = front.port if front else port
        announce = ("--replica-announce-port", str(at))
        server = EmbeddedServer(self._folder / name, port, extra=(*self._options, *announce, *extra))
        return stack.enter_context(server), at

    def _sentinel(self, stack: ExitStack, primary: int) -> None:
        port = free_port()
        file = self._folder / f"sentinel-{port}.conf"
        file.write_text(
            f"bind 127.0.0.1\nport {port}\ndir {self._folder}\nloglevel warning\nlogfile {file}.log\n"
            f"requirepass {WATCHWORD}\nsentinel sentinel-pass {WATCHWORD}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {primary} 2\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_MS}\nsentinel failover-timeout {MASTER} 5000\n"
        )
        process = subprocess.Popen(tethered([find_server(), str(file), "--sentinel"], signal.SIGKILL))
        stack.callback(process.wait)
        stack.callback(process.kill)
        self.sentinels.append(port)
        self._doors.append(stack.enter_context(Front(self._folder, port)).port if self._by_tls else port)

    def _knows_all(self, port: int) -> bool:
        try:
            with self.ask(port) as asked:
                state = asked.sentinel_masters().get(MASTER, {})
                replicas = asked.sentinel_slaves(MASTER)
        except redis.RedisError:
            return False
        links = [one["master-link-status"] for one in replicas]
        return state.get("num-other-sentinels") == 2 and links == ["ok"] * self._replicas


def kill(watched: Watched) -> None:
    """kill -9 of the primary."""
    watched.primary.kill()


def freeze(watched: Watched) -> None:
    """Its connections stay open and say nothing, as of a host that is gone without a word."""
    os.kill(watched.primary.pid, signal.SIGSTOP)


def hand_over(watched: Watched) -> None:
    """A planned one, of a primary that is well."""
    with watched.ask(watched.sentinels[0]) as asked:
        asked.execute_command("SENTINEL", "FAILOVER", MASTER)
