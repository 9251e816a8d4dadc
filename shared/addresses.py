"""Which addresses this service may call because a caller named them (webhooks, files by URL).

A caller who may name any address reaches what only this machine can: its own ports, the private network, a cloud's
metadata with its keys. So only addresses that are public on the internet are called, unless ML_OUTBOUND_ALLOW names
the host or its network. `check_url` judges what is written; a name says nothing of where it leads, so
`checked_addresses` judges what it resolves to, and the caller (shared/outbound.py) connects to just that.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from shared.errors import AddressRefused, ConfigError

IPv4, IPv6 = ipaddress.IPv4Address, ipaddress.IPv6Address
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 2048
_PORTS = {"http": 80, "https": 443}
_LOWEST_OTHER_PORT = 1024  # below are mail, DNS, SSH and the like: nothing that takes a webhook
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as a last label: some parsers read 127.1, 2130706433 and 0x7f.1

# IANA's special-purpose registries; Python's own `is_global` differs between its versions.
_DENIED = [
    ipaddress.ip_network(one)
    for one in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; also a cloud's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own, reachable from each of its machines
        "169.254.0.0/16",  # link-local: most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",
        "2001::/23",  # Teredo and other protocols' own
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",
    )
]
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # all else is local, mapped, multicast, or not given out
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # how a network without IPv4 reaches it


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator has set."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    https_only: bool = False

    @classmethod
    def parse(cls, allow: str, *, https_only: bool = False) -> Rules:
        """`allow`: host names, addresses and networks, separated by commas. Raises ConfigError."""
        names, networks = set(), []
        for entry in filter(None, (one.strip().lower() for one in allow.split(","))):
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if not _NAME.fullmatch(entry) or _numeric(entry):
                    message = f"ML_OUTBOUND_ALLOW: {entry!r} is no host name, address or network"
                    raise ConfigError(message) from None
                names.add(entry)
        return cls(frozenset(names), tuple(networks), https_only)

    def allows(self, address: Address) -> bool:
        """Whether a network of the list has it."""
        return any(address.version == network.version and address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in its parts. `host` is a lower-case name, or an address in its one canonical form."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def literal(self) -> Address | None:
        """The host, where it is an address."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """For the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def check_url(url: str, rules: Rules) -> Target:
    """What the URL says, without asking any resolver. Raises AddressRefused."""
    if not (url.isascii() and url.isprintable()) or " " in url or "\\" in url or len(url) > MAX_URL:
        raise AddressRefused(f"a URL has at most {MAX_URL} characters, all of them of those that a URL may have")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressRefused("this is no URL") from None
    scheme = parts.scheme
    if scheme not in _PORTS or (rules.https_only and scheme != "https"):
        raise AddressRefused("the URL must begin with https://" + ("" if rules.https_only else " or http://"))
    if "@" in parts.netloc:
        raise AddressRefused("a URL with a user name or password is not called")
    host = _host(parts.netloc, parts.hostname or "")
    target = Target(scheme, host, _PORTS[scheme] if port is None else port, _path(parts.path, parts.query))
    if target.literal is not None:
        checked_addresses([host], target, rules)
    elif host == "localhost" or host.endswith(".localhost"):  # RFC 6761: no resolver may say otherwise
        checked_addresses(["127.0.0.1"], target, rules)
    if not (target.port in _PORTS.values() or target.port >= _LOWEST_OTHER_PORT or host in rules.names):
        raise AddressRefused(f"port {target.port} is not called; 80, 443 and those from {_LOWEST_OTHER_PORT} are")
    return target


def checked_addresses(found: Iterable[str], target: Target, rules: Rules) -> Sequence[Address]:
    """What the target's host resolved to, all of it allowed: one that is not refuses the whole. Raises
    AddressRefused."""
    try:
        addresses = [_plain(ipaddress.ip_address(one)) for one in found]
    except ValueError:
        raise AddressRefused(f"{target.host} resolves to something that is no address") from None
    if not addresses:
        raise AddressRefused(f"{target.host} has no address")
    if target.host not in rules.names and not all(rules.allows(one) or _public(one) for one in addresses):
        # Which one is not told: the resolver of this network is not the caller's to ask.
        raise AddressRefused(f"{target.host} is not a public address")
    return addresses


def _host(netloc: str, host: str) -> str:
    if netloc.startswith("["):
        try:
            return str(_plain(IPv6(host)))
        except ValueError:
            raise AddressRefused("the address in brackets is none") from None
    host = host.removesuffix(".")
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise AddressRefused("the URL's host is no host name")
    if _numeric(host):
        try:
            return str(IPv4(host))
        except ValueError:
            raise AddressRefused("an address is written as four decimal numbers") from None
    return host


def _numeric(host: str) -> bool:
    return bool(_NUMBER.fullmatch(host.rpartition(".")[2]))


def _path(path: str, query: str) -> str:
    return (path or "/") + (f"?{query}" if query else "")


def _plain(address: Address) -> Address:
    """IPv4 in IPv6's clothes (::ffff:1.2.3.4) is IPv4. A zone (fe80::1%eth0) is of this machine, and dropped."""
    if isinstance(address, IPv6):
        return address.ipv4_mapped or IPv6(int(address))
    return address


def _public(address: Address) -> bool:
    if isinstance(address, IPv6):
        if address in _NAT64:
            return _public(IPv4(int(address) & 0xFFFFFFFF))
        if address not in _GLOBAL_V6:
            return False
    return not any(address.version == network.version and address in network for network in _DENIED)
