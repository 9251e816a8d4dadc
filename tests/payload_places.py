"""The payload stores for tests: this Redis, a folder, and a real server that speaks S3 (moto), all on loopback. The
last two can go away and come back."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import redis

from local.ports import free_port
from shared import keys
from tests.conftest import wait_until

BUCKET = "payloads"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class Relay:
    """Hands on what comes to its port; when it is cut, it refuses and has dropped all connections."""

    def __init__(self, target: int) -> None:
        self._target, self.port = target, free_port()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.resume()

    def resume(self) -> None:
        """From now on."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Until `resume`."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with self._lock:
                self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


@dataclass
class S3:
    """A server that speaks S3: `direct` past the relay."""

    relay: Relay
    direct: str

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.relay.port}"

    def client(self) -> Any:
        named = {name.lower(): value for name, value in CREDENTIALS.items() if name != "AWS_DEFAULT_REGION"}
        return boto3.client("s3", endpoint_url=self.direct, region_name="us-east-1", **named)


@contextmanager
def s3_server() -> Iterator[S3]:
    """A process of its own, with an empty bucket."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    direct = f"http://127.0.0.1:{port}"

    def up() -> bool:
        assert process.poll() is None, "moto has exited"
        try:
            return httpx.get(f"{direct}/moto-api/", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(up, timeout_s=60, what="moto")
        server = S3(Relay(port), direct)
        server.client().create_bucket(Bucket=BUCKET)
        yield server
        server.relay.cut()
    finally:
        process.kill()
        process.wait()


@dataclass
class Place:
    """A payload store of a test. `settings`: by name; `kind` as in its references."""

    kind: str
    settings: dict[str, Any]
    store: redis.Redis
    folder: Path | None = None
    s3: S3 | None = None
    prefix: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """For a process."""
        told = {f"ML_{name.upper()}": str(value) for name, value in self.settings.items()}
        return told | (CREDENTIALS if self.s3 else {})

    def objects(self) -> list[str]:
        """What is there now, whoever knows of it."""
        if self.folder is not None:
            return sorted(path.name for path in self.folder.rglob("*") if path.is_file())
        if self.s3 is not None:
            found = self.s3.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/")
            return sorted(one["Key"].rpartition("/")[2] for one in found.get("Contents", []))
        return sorted(key.decode().removeprefix(keys.OBJECT) for key in self.store.scan_iter(f"{keys.OBJECT}*"))

    @contextmanager
    def away(self) -> Iterator[None]:
        """Not to be reached meanwhile."""
        if self.folder is not None:
            aside = self.folder.with_name("aside")
            self.folder.rename(aside)
            yield
            aside.rename(self.folder)
        else:
            assert self.s3 is not None, "Redis goes away in tests of its own"
            self.s3.relay.cut()
            yield
            self.s3.relay.resume()


def make_place(kind: str, store: redis.Redis, tmp_path: Path, s3: S3 | None) -> Place:
    """Empty. `s3`: for that kind."""
    if kind == "redis":
        return Place("r", {"payload_store": "redis"}, store)
    if kind == "folder":
        folder = tmp_path / "payloads"
        folder.mkdir()
        return Place("f", {"payload_store": folder.as_uri(), "store_bytes": 1000}, store, folder=folder)
    assert s3 is not None
    prefix = f"test-{time.monotonic_ns()}"
    where = {"payload_store": f"s3://{BUCKET}/{prefix}", "s3_endpoint": s3.endpoint, "store_bytes": 1000}
    return Place("s", where, store, s3=s3, prefix=prefix)
