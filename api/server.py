"""uvicorn with our own end: a restart that no caller notices.

uvicorn closes idle connections at once when it stops, under the feet of a client that sends its next request at that
moment, and runs the lifespan's shutdown only after all connections are closed, so a hook there could not release
callers who wait. Ours, on the first signal:

1. accepts nobody any more. A listening socket that siblings or a supervisor share is only closed, never shut down:
   who waits in its backlog is theirs;
2. answers whatever still comes on the open connections, with `Connection: close` (api/middleware.py), and gives idle
   ones `LINGER_S` to send it;
3. holds the waiting callers for their outcome, ML_DRAIN_S at most from the signal; then they get 202 or 504 with
   their job's URL. Streams of events are ended at once: their clients go on elsewhere with `Last-Event-ID`.

A second signal ends 2 and 3 now, a third ends the process without an answer.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
from contextvars import Context
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
        self._loop: asyncio.AbstractEventLoop | None = None  # set when there is something to drain
        self._end: float | None = None  # set when the drain has begun: the loop's time at which it is over

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; called again: release who waits; and again: end now."""
        self._signals += 1
        self.should_exit = True
        if self._signals > 2:
            self.force_exit = True
        elif self._loop is not None:
            # At once: uvicorn looks at should_exit ten times a second, and accepts meanwhile.
            do = self._begin if self._signals == 1 else self._parts.release
            self._loop.call_soon_threadsafe(do, context=Context())  # not of the request that it interrupts

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells the port, which may have been chosen by the system. Raises what `check_store` raises, before anything
        has begun: uvicorn would answer an error of the lifespan with a traceback."""
        await self._parts.check_store()
        await super().startup(sockets)
        if self.started:
            self._loop = asyncio.get_running_loop()
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            logger.info(Event.STARTED, host=host, port=port)

    def _begin(self) -> float:
        """Accept nobody any more; the waiting callers are released at the time returned."""
        if self._end is None:
            parts, loop = self._parts, asyncio.get_running_loop()
            parts.drain()
            drain_s, connections = parts.settings.drain_s, len(self.server_state.connections)
            logger.info(Event.STOPPING, waiting=len(parts.waiter), connections=connections, drain_s=drain_s)
            for server in self.servers:
                server.close()
            self._end = loop.time() + drain_s
            loop.call_at(self._end, parts.release)
        return self._end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Returns when every connection is closed, or ML_DRAIN_S and a moment for the last words are over."""
        loop, end = asyncio.get_running_loop(), self._begin()
        await self._linger(min(end, loop.time() + LINGER_S))
        await self._close_idle()
        self.config.timeout_graceful_shutdown = math.ceil(max(0.0, end - loop.time()) + _LAST_WORDS_S)
        await super().shutdown(sockets)
        logger.info(Event.STOPPED)

    async def _linger(self, end: float) -> None:
        """Returns when no connection is left, or at the loop's time `end`."""
        loop = asyncio.get_running_loop()
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
