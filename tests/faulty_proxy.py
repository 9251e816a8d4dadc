"""A small HTTP proxy on loopback that hands requests on to one server, and does to the next ones what the test says."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx


@dataclass(frozen=True)
class Answer:
    """Answer it here, without asking the server."""

    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Silence:
    """Take the request and say nothing, until the test ends or the client goes."""


@dataclass(frozen=True)
class HangUp:
    """Close the connection without an answer."""


@dataclass(frozen=True)
class Cut:
    """Hand the answer on until it holds `after`, then drop the connection; `politely` as if it were the end."""

    after: bytes
    politely: bool = False


Fault = Answer | Silence | HangUp | Cut


@dataclass(frozen=True)
class Seen:
    """A request, its headers by lower-case names, and when (monotonic) it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float


class FaultyProxy:
    """Each request takes the next of `faults`, if there is one."""

    def __init__(self, upstream: str) -> None:
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.seen: list[Seen] = []
        self.over = threading.Event()
        self.client = httpx.Client(base_url=upstream, timeout=60)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                """Not into the test's output."""

            def do_POST(self) -> None:
                proxy.handle(self)

            do_GET = do_POST

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def handle(self, asked: BaseHTTPRequestHandler) -> None:
        """In the connection's own thread."""
        body = asked.rfile.read(int(asked.headers.get("content-length") or 0))
        self.seen.append(
            Seen(
                asked.command,
                asked.path,
                {name.lower(): value for name, value in asked.headers.items()},
                body,
                time.monotonic(),
            )
        )
        fault = self.faults.popleft() if self.faults else self.always
        match fault:
            case Silence():
                self.over.wait(60)
                _drop(asked)
            case HangUp():
                _drop(asked)
            case Answer():
                self._answer(asked, fault.status, {"content-type": "application/json", **fault.headers}, fault.body)
            case _:
                self._pass(asked, body, fault)

    def _answer(self, asked: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes) -> None:
        asked.send_response(status)
        for name, value in headers.items():
            asked.send_header(name, value)
        asked.send_header("content-length", str(len(body)))
        asked.end_headers()
        asked.wfile.write(body)

    def _pass(self, asked: BaseHTTPRequestHandler, body: bytes, cut: Cut | None) -> None:
        skipped = {"host", "content-length", "connection", "accept-encoding"}
        headers = {name: value for name, value in asked.headers.items() if name.lower() not in skipped}
        with self.client.stream(asked.command, asked.path, content=body, headers=headers) as answer:
            asked.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    asked.send_header(name, value)
            asked.send_header("transfer-encoding", "chunked")
            asked.end_headers()
            sent = b""
            for part in answer.iter_raw():
                sent += part
                if cut is not None and cut.after in sent:
                    end = sent.index(cut.after) + len(cut.after)
                    _chunk(asked, part[: len(part) - (len(sent) - end)])
                    break
                _chunk(asked, part)
        if cut is not None and not cut.politely:
            _drop(asked)
            return
        asked.wfile.write(b"0\r\n\r\n")

    def start(self) -> None:
        """Once."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Who is kept waiting is let go."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self.client.close()


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """In front of the server at this URL."""
    proxy = FaultyProxy(upstream)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def _chunk(asked: BaseHTTPRequestHandler, part: bytes) -> None:
    if part:
        asked.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        asked.wfile.flush()


def _drop(asked: BaseHTTPRequestHandler) -> None:
    asked.close_connection = True
    asked.connection.shutdown(socket.SHUT_RDWR)
