"""Where Prometheus reads a worker: an HTTP server of its own, and the address that others reach it by."""

from __future__ import annotations

import socket

from prometheus_client import CollectorRegistry, start_http_server

from shared.errors import ConfigError
from shared.logs import Event, get_logger
from shared.redis_url import parse
from shared.settings import Settings

logger = get_logger("worker")

_ANY = ("0.0.0.0", "::", "")  # noqa: S104 - compared


def serve_metrics(registry: CollectorRegistry, settings: Settings) -> str | None:
    """`HOST:PORT` of `/metrics`, which is served from now on; None where ML_METRICS_PORT is not set. Raises ConfigError
    for a port that is taken."""
    if settings.metrics_port is None:
        return None
    try:
        server, _ = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        place = f"{settings.metrics_host}:{settings.metrics_port}"
        raise ConfigError(f"ML_METRICS_HOST, ML_METRICS_PORT: {place}: {error.strerror}") from None
    port = server.server_port
    logger.info(Event.STARTED, part="metrics", host=settings.metrics_host, port=port)
    host = own_address(settings.redis_url) if settings.metrics_host in _ANY else settings.metrics_host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def own_address(redis_url: str) -> str:
    """This host's address on its way to Redis: who reads of this worker there is mostly on that side."""
    address = parse(redis_url)
    for host, port in address.hosts:
        try:
            family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as probe:
                probe.connect(where)  # sends nothing
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1" if address.path else socket.gethostname()
