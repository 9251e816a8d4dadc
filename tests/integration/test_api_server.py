"""The end of the linger: idle connections are closed, but none under a request that has just come."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from tests.api_stack import serving, settings, until

_ASK = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_request_that_is_not_read_yet_keeps_its_connection(redis_url: str, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with serving(settings(redis_url, tmp_path)) as api:
        with socket.socket() as quick, socket.socket() as idle:
            for kept in (quick, idle):
                kept.setblocking(False)
                await loop.sock_connect(kept, ("127.0.0.1", api.port))
                await loop.sock_sendall(kept, _ASK)
                assert b"200 OK" in await loop.sock_recv(kept, 1000)
            await until(lambda: len(api.server.server_state.connections) == 2)
            api.parts.draining = True
            quick.send(_ASK)  # it is in the kernel now; this loop has not turned to read it
            await api.server._close_idle()
            assert await loop.sock_recv(idle, 1000) == b""
            answer = await loop.sock_recv(quick, 1000)
            assert b"200 OK" in answer
            assert b"connection: close" in answer
            assert await loop.sock_recv(quick, 1000) == b""
