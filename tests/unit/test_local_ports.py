"""The supervisor's listening socket: what comes while nobody accepts waits, until the last holder lets go."""

from __future__ import annotations

import os
import socket

import pytest

from local.ports import free_port, is_free, let_go, listen


def test_listens_on_the_port_asked_for_and_only_once() -> None:
    port = free_port()
    assert is_free(port)
    with listen("127.0.0.1", port) as ours:
        assert ours.getsockname() == ("127.0.0.1", port)
        assert not is_free(port)
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", port)


def test_port_0_is_any_free_one() -> None:
    with listen("127.0.0.1", 0) as ours:
        assert ours.getsockname()[1] > 0


def test_it_ends_with_its_last_holder() -> None:
    with listen("127.0.0.1", 0) as ours:
        fd, place = ours.fileno(), ours.getsockname()
        child = socket.socket(fileno=os.dup(fd))
        let_go(ours)
        with socket.create_connection(place):
            child.accept()[0].close()
        child.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        assert not os.get_inheritable(fd), "the number is taken as long as a child could be given it"


def test_a_port_is_not_given_again_before_its_server_has_started() -> None:
    ports = [free_port() for _ in range(300)]
    assert len(set(ports)) == 300
