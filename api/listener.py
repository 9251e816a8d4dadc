"""A listening socket that somebody else has bound: systemd's socket activation, or a supervisor like `ml-service up`.

It outlives this process, so callers who come between two of them wait in its backlog and are not refused, and several
processes may accept from it.
"""

from __future__ import annotations

import socket

from shared.errors import ConfigError


def inherited(fd: int) -> socket.socket:
    """The listening TCP socket with this descriptor; closing it closes our descriptor alone. Raises ConfigError."""
    try:
        found = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError(f"ML_LISTEN_FD: {fd} is no socket of this process ({error.strerror})") from None
    tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
    if not (tcp and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
        found.detach()  # not ours to close
        raise ConfigError(f"ML_LISTEN_FD: {fd} is not a listening TCP socket")
    found.set_inheritable(False)
    return found
