"""`python -m api`: serve until SIGTERM, then drain.

uvicorn runs the lifespan's shutdown only after all connections are closed, so a hook there could not release callers
who wait. Our server does it: on the first signal it accepts nobody any more and holds the waiting callers for their
outcome, ML_DRAIN_S at most; then they get 202 or 504 with their job's URL. A second signal releases them
now, a third ends at once.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from types import FrameType

import uvicorn

from api.app import create_app
from api.deps import Services
from shared.errors import ConfigError, StoreTooOld
from shared.logs import Event, configure_logs, get_logger
from shared.settings import Settings, load_settings

logger = get_logger("api")

_LAST_WORDS_S = 5.0  # to send what was released


class Server(uvicorn.Server):
    """uvicorn with our own drain; a clean drain ends with exit code 0, not with the signal."""

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
        """Release who waits when the time is over; the rest is uvicorn's."""
        drain_s = self._parts.settings.drain_s
        logger.info(Event.STOPPING, waiting=len(self._parts.waiter), drain_s=drain_s)
        release = asyncio.get_running_loop().call_later(drain_s, self._parts.waiter.release)
        try:
            await super().shutdown(sockets)
        finally:
            release.cancel()
        logger.info(Event.STOPPED)


def serve(settings: Settings) -> int:
    """The exit code: 0 after a drain, 1 when it could not start."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=75,  # longer than clients keep an idle connection: they close it, not we under their feet
        timeout_graceful_shutdown=int(settings.drain_s + _LAST_WORDS_S),
    )
    server = Server(config, app.state.services)
    server.run()
    return 0 if server.started else 1


def main() -> int:
    """Reads the settings from the environment."""
    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        return serve(settings)
    except (ConfigError, StoreTooOld) as error:
        configure_logs("INFO", "text")
        logger.error(Event.CONFIG_REFUSED, error=error.message)
        return 2


if __name__ == "__main__":
    sys.exit(main())
