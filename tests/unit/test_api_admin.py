"""Who may administer: the rule itself. tests/integration/test_api_dead.py asks over sockets."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from api.admin import from_this_machine
from shared.errors import Forbidden
from shared.loopback import is_loopback, needs_keys


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::FFFF:7f00:1"]
)
def test_loopback(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        "128.0.0.1",
        "126.255.255.255",
        "10.0.0.1",
        "172.17.0.1",
        "192.168.1.1",
        "0.0.0.0",  # noqa: S104 - a string to refuse, nothing is bound
        "::",
        "::2",
        "::ffff:10.0.0.1",
        "fe80::1%eth0",
        "127.1",
        "2130706433",
        "127.0.0.1, 10.0.0.1",
        "127.0.0.1:80",
    ],
)
def test_not_loopback(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("asked", "host", "needed"),
    [
        ("auto", "127.0.0.1", False),
        ("auto", "::1", False),
        ("auto", "localhost", False),
        ("auto", "0.0.0.0", True),  # noqa: S104 - nothing is bound
        ("auto", "::", True),
        ("auto", "", True),
        ("auto", "192.168.1.1", True),
        ("on", "127.0.0.1", True),
        ("off", "0.0.0.0", False),  # noqa: S104 - what is tested
    ],
)
def test_keys_are_needed_where_others_may_come(asked: str, host: str, needed: bool) -> None:
    assert needs_keys(asked, host) is needed


def _ask(peer: tuple[str, int] | None, **headers: str) -> None:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    from_this_machine(Request({"type": "http", "headers": named, "client": peer}))


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8001", "127.0.0.1:8001", "127.0.0.2", "[::1]:8001"])
def test_from_this_machine(peer: str, host: str) -> None:
    _ask((peer, 5000), host=host)
    _ask((peer, 5000), host=host, origin=f"http://{host}")


@pytest.mark.parametrize("peer", ["10.0.0.1", "172.17.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "", None])
def test_from_elsewhere(peer: str | None) -> None:
    with pytest.raises(Forbidden, match="loopback address"):
        _ask(None if peer is None else (peer, 5000), host="127.0.0.1:8001")


@pytest.mark.parametrize(
    "header",
    ["forwarded", "via", "x_forwarded_for", "x_forwarded_host", "x_forwarded_proto", "x_forwarded", "x_real_ip"],
)
def test_passed_on_by_a_proxy_of_this_machine(header: str) -> None:
    with pytest.raises(Forbidden, match=header.replace("_", "-")):
        _ask(("127.0.0.1", 5000), host="127.0.0.1:8001", **{header: "127.0.0.1"})


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("Host", {}),
        ("Host", {"host": "rebound.example"}),
        ("Host", {"host": "localhost.example:8001"}),
        ("Host", {"host": "127.0.0.1.example"}),
        ("Host", {"host": "user@10.0.0.1"}),
        ("Host", {"host": "[::1"}),
        ("Origin", {"host": "localhost", "origin": "https://page.example"}),
        ("Origin", {"host": "localhost", "origin": "null"}),
        ("Origin", {"host": "localhost", "origin": ""}),
    ],
)
def test_asked_by_a_page_in_a_browser_of_this_machine(name: str, headers: dict[str, str]) -> None:
    with pytest.raises(Forbidden, match=name):
        _ask(("127.0.0.1", 5000), **headers)
