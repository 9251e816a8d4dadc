"""`python -m api`: serve until SIGTERM, then drain (api/server.py). `python -m api keys`: see api/keys_command.py;
`python -m api deliver`: see api/deliver/command.py."""

from __future__ import annotations

import os
import socket
import sys

import uvicorn

from api.app import create_app
from api.deliver.command import deliver_command
from api.keys_command import keys_command
from api.listener import inherited
from api.protocol import guarded
from api.server import Server
from shared import tracing
from shared.beside import beside_up
from shared.errors import ConfigError, StoreTooOld
from shared.logs import Event, configure_logs, get_logger
from shared.settings import Settings, load_settings

logger = get_logger("api")


def serve(settings: Settings) -> int:
    """The exit code: 0 after a drain, 1 when it could not start. Raises ConfigError."""
    tracing.configure("ml-service-api", f"{socket.gethostname()}-{os.getpid()}")
    sockets = None if settings.listen_fd is None else [inherited(settings.listen_fd)]
    app = create_app(settings, host=sockets[0].getsockname()[0] if sockets else settings.host)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=guarded(settings),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=75,  # longer than clients keep an idle connection: they close it, not we under their feet
    )
    server = Server(config, app.state.services)
    server.run(sockets)
    return 0 if server.started else 1


def main(arguments: list[str]) -> int:
    """Reads the settings from the environment."""
    configure_logs("INFO", "text")  # until it is known how; the settings may be what is wrong
    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        if not arguments:
            return serve(settings)
        command = deliver_command if arguments[0] == "deliver" else keys_command
        return command(beside_up(settings), arguments)
    except (ConfigError, StoreTooOld) as error:
        logger.error(Event.CONFIG_REFUSED, error=error.message)
        return 2
    finally:
        tracing.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
