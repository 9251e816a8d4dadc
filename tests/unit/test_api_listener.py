"""An inherited descriptor is a listening TCP socket, or is refused by the variable's name and left as it is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from api.listener import inherited
from shared.errors import ConfigError


def test_a_listening_socket_is_taken_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        fd = os.dup(ours.fileno())
        os.set_inheritable(fd, True)
        with inherited(fd) as found:
            assert found.getsockname() == ours.getsockname()
            assert not found.get_inheritable(), "nothing that this process starts gets it"
            assert _accepts(found, ours)
        assert _accepts(ours, ours), "closing it closed our descriptor alone"


def _accepts(listener: socket.socket, at: socket.socket) -> bool:
    with socket.create_connection(at.getsockname()) as client:
        taken, address = listener.accept()
        taken.close()
        return bool(address == client.getsockname())


def test_anything_else_is_refused_and_not_closed(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket() as idle,
        socket.socket(socket.AF_UNIX) as local,
        (tmp_path / "file").open("w") as file,
    ):
        datagrams.bind(("127.0.0.1", 0))
        idle.bind(("127.0.0.1", 0))
        local.bind(str(tmp_path / "socket"))
        local.listen()
        for fd in (datagrams.fileno(), idle.fileno(), local.fileno(), file.fileno()):
            with pytest.raises(ConfigError, match=f"ML_LISTEN_FD: {fd} is n"):
                inherited(fd)
            os.fstat(fd)


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    with pytest.raises(ConfigError, match="ML_LISTEN_FD: 9999 is no socket of this process"):
        inherited(9999)
