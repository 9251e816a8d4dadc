"""A proxy that misbehaves on purpose: what it does with the next connections is told by a list."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit

_MOST = 1 << 20


class Proxy:
    """Each connection carries one request. `todo` has what happens to the next: `pass` (also when it is empty),
    `lose` (the request is passed on, the answer is not), `refuse` (closed at once), `cut` (all but the end of the
    answer), `hang` (no answer, until the test is over), a number (the answer up to so many newlines in its body), or an
    answer of your own, as bytes. `seen` are the requests
    that came, as they came."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._place = (place.hostname or "", place.port or 80)
        self.todo: list[str | bytes | int] = []
        self.seen: list[bytes] = []
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        # Wakes the thread in accept, which close alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with caller:
            request = _request(caller)
            if not request:
                return
            self.seen.append(request)
            todo = self.todo.pop(0) if self.todo else "pass"
            if isinstance(todo, bytes):
                caller.sendall(todo)
            elif todo == "hang":
                self._over.wait()
            elif todo != "refuse":
                self._pass_on(caller, request, todo)

    def _pass_on(self, caller: socket.socket, request: bytes, todo: str | int) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        with socket.create_connection(self._place) as service:
            service.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
            whole = b""
            while chunk := service.recv(_MOST):
                whole += chunk
                if todo == "pass":
                    caller.sendall(chunk)
                elif isinstance(todo, int) and (part := _lines(whole, todo)):
                    caller.sendall(part)
                    return
            if todo == "cut":
                caller.sendall(whole[: len(whole) - 10])


def _lines(whole: bytes, count: int) -> bytes:
    """The answer to the end of line `count` of its body; empty if that has not come."""
    head, _, body = whole.partition(b"\r\n\r\n")
    lines = body.replace(b"\r\n", b"\r\0").split(b"\n")  # those of the chunks do not count
    if len(lines) <= count:
        return b""
    kept = b"\n".join(lines[:count]) + b"\n"
    return head + b"\r\n\r\n" + kept.replace(b"\r\0", b"\r\n")


def _request(caller: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = caller.recv(_MOST)
        if not chunk:
            return b""
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        body += caller.recv(_MOST)
    return head + b"\r\n\r\n" + body


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    """An HTTP answer; underscores in names become dashes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
