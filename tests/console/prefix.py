"""A reverse proxy under a path, as nginx's `location /ml/ { proxy_pass http://server/; proxy_buffering off; }`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

_OF_A_CONNECTION = ("connection", "keep-alive", "transfer-encoding")


def _handler(prefix: str, client: httpx.Client, *, buffering: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """HTTP/1.0 towards the browser: an answer ends with its connection."""

        def log_message(self, format: str, *args: Any) -> None:
            """Not into the test's output."""

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            path = self.path.removeprefix(prefix)
            headers = [(name, value) for name, value in self.headers.items() if name.lower() not in _OF_A_CONNECTION]
            with client.stream(self.command, path, content=body, headers=headers) as answer:
                self.send_response(answer.status_code)
                for name, value in answer.headers.multi_items():
                    if name not in _OF_A_CONNECTION:
                        self.send_header(name, value)
                # The browser has heard enough, or this proxy ends.
                with suppress(BrokenPipeError, ConnectionResetError, httpx.TransportError, httpx.StreamError):
                    self.end_headers()
                    for part in [b"".join(answer.iter_raw())] if buffering else answer.iter_raw():
                        self.wfile.write(part)

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    return Handler


@contextmanager
def under(prefix: str, upstream: str, *, buffering: bool = False) -> Iterator[str]:
    """The URL, which ends with `prefix`, under which the server at `upstream` is found. That server never sees the
    prefix; what is asked outside of it gets 404. `buffering`: of an answer nothing comes before all has come."""
    with httpx.Client(base_url=upstream, timeout=60) as client:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(prefix, client, buffering=buffering))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{prefix}"
        finally:
            server.shutdown()
            server.server_close()
