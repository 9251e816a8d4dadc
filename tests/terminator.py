"""One port in front of servers on this machine: `terminator.py PORT TARGET CERTIFICATE [AUTHORITY]`.

TLS ends here (the embedded server has none of its own). What does not begin as TLS goes through as it is, so that
sentinels, which speak plainly in the tests, can watch the port that clients reach by TLS. TARGET is a file with the
port to lead to, read anew for each connection: so one name leads to another server after a failover. With AUTHORITY
who comes by TLS must show a certificate of it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from pathlib import Path

TLS_HANDSHAKE = b"\x16"  # the first byte of every TLS connection, and of no Redis command


class Pipe(asyncio.Protocol):
    """One direction; `other` is the way back."""

    def __init__(self) -> None:
        self.other: Pipe | None = None
        self.transport: asyncio.Transport | None = None
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.waiting.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.abort() if exc else self.other.transport.close()


def join(one: Pipe, two: Pipe) -> None:
    one.other, two.other = two, one
    for pipe in (one, two):
        for data in pipe.waiting:
            pipe.data_received(data)
        pipe.waiting.clear()


async def serve(client: socket.socket, target: Path, context: ssl.SSLContext) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(client, lambda: readable.done() or readable.set_result(None))
    await readable
    loop.remove_reader(client)
    try:
        secure = client.recv(1, socket.MSG_PEEK) == TLS_HANDSHAKE
        _, outer = await loop.connect_accepted_socket(Pipe, client, ssl=context if secure else None)
        _, inner = await loop.create_connection(Pipe, "127.0.0.1", int(target.read_text()))  # noqa: ASYNC240 - a few bytes
        join(outer, inner)
    except OSError:  # no handshake, or no server: the client sees its connection closed
        client.close()


async def main(port: int, target: Path, certificate: str, authority: str = "") -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if authority:
        context.load_verify_locations(authority)
        context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", port))
    listener.setblocking(False)
    tasks = set()
    while True:
        client, _ = await asyncio.get_running_loop().sock_accept(listener)
        client.setblocking(False)
        task = asyncio.create_task(serve(client, target, context))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
