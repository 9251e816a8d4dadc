"""uvicorn with our own end: a restart that no caller notices.

uvicorn closes idle connections at once when it stops, under the feet of a client that sends its next request at that
moment, and runs the lifespan's shutdown only after all connections are closed, so a hook there could not release
callers who wait. Ours, on the first signal:

1. accepts nobody any more. A listening socket that siblings or a supervisor share is only closed, never shut down:
   who waits in its backlog is theirs;
2. answers whatever still comes on the open connections, with `Connection: close` (api/middleware.py), and gives idle
   ones `LINGER_S` to send it;
3. holds the waiting callers for their outcome, ML_DRAIN_S at most from the signal; then they get 202 or 504 with
   their job's URL.

A second signal ends 2 and 3 now, a third ends the process without an answer.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
from types import FrameType

import uvicorn

from api.deps import Services
from shared.logs import Event, get_logger

logger = get_logger("api")

LINGER_S = 2.5
_LAST_WORDS_S = 5.0  # to send what was released
_LOOK_S = 0.02


class Server(uvicorn.Server):
    """For one event loop. A clean drain ends with exit code 0, not with the signal."""

    def __init__(self, config: uvicorn.Config, parts: Services) -> None:
        super().__init__(config)
        self._parts = parts
        self._signals = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; called again: release who waits; and again: end now."""
        if self._signals == 1 and self._loop is not None:
            self._loop.call_soon_threadsafe(self._parts.waiter.release)
        elif self._signals > 1:
            self.force_exit = True
        self._signals += 1
        self.should_exit = True
        self._parts.draining = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells the port, which may have been chosen by the system."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            logger.info(Event.STARTED, host=host, port=port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Returns when every connection is closed, or ML_DRAIN_S and a moment for the last words are over."""
        parts, loop, connections = self._parts, asyncio.get_running_loop(), self.server_state.connections
        parts.draining = True
        drain_s = parts.settings.drain_s
        logger.info(Event.STOPPING, waiting=len(parts.waiter), connections=len(connections), drain_s=drain_s)
        for server in self.servers:
            server.close()
        end = loop.time() + drain_s
        release = loop.call_at(end, parts.waiter.release)
        try:
            await self._linger(min(LINGER_S, drain_s))
            await self._close_idle()
            self.config.timeout_graceful_shutdown = math.ceil(max(0.0, end - loop.time()) + _LAST_WORDS_S)
            await super().shutdown(sockets)
        finally:
            release.cancel()
        logger.info(Event.STOPPED)

    async def _linger(self, most_s: float) -> None:
        """Returns when no connection is left, or the time is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + most_s
        while loop.time() < end and self._signals < 2:
            # First sleep, then look: what was accepted last is not among the connections yet.
            await asyncio.sleep(_LOOK_S)
            if not self.server_state.connections:
                return

    async def _close_idle(self) -> None:
        """One connection a turn of the loop, and none with a request that has come and is not read: the kernel answers
        it with a reset. (All of them in one turn take milliseconds, in which some client sends.)"""
        for connection in list(self.server_state.connections):
            if not connection.transport.is_closing() and not _unread(connection.transport):
                connection.shutdown()
            await asyncio.sleep(0)


def _unread(transport: asyncio.Transport) -> bool:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
