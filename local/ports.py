"""TCP ports on this machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Iterator
from functools import cache

_BACKLOG = 2048  # as uvicorn's; the system may set a lower limit
_EACH = 1000


def is_free(port: int) -> bool:
    """Whether a server could listen there, on the loopback interface, now."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket that listens there: IPv6 where the host is written with colons. Port 0 is any free one. Raises
    OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def let_go(listener: socket.socket) -> None:
    """Hold the socket no more: it ends with the last process that has inherited it. The descriptor stays open, on
    nothing: a child that is just being started inherits by number, and no other file may get this one."""
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), listener.fileno(), inheritable=False)


def free_port() -> int:
    """A port nobody listens on. Below the range that the kernel gives to outgoing connections: a client that calls a
    server which is just restarting could else be given that very port, meet itself, and keep the server out. Processes
    that look at the same time look in different thousands, and one process goes round in its own: a port that was
    given is only taken when its server starts."""
    for port in itertools.islice(_round(os.getpid()), _EACH):
        if is_free(port):
            return port
    raise OSError(f"no free port among the {_EACH} that this process may take")


@cache
def _round(pid: int) -> Iterator[int]:
    first = 20_000 + pid % 12 * _EACH
    return itertools.cycle(random.sample(range(first, first + _EACH), _EACH))
