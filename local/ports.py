"""TCP ports on this machine."""

from __future__ import annotations

import contextlib
import random
import socket


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port nobody listens on. Below the range that the kernel gives to outgoing connections: a client that calls a
    server which is just restarting could else be given that very port, meet itself, and keep the server out."""
    for port in random.sample(range(20_000, 32_000), 200):
        if is_free(port):
            return port
    raise OSError("no free port between 20000 and 32000")
