"""What only this very machine reaches, and so asks nobody for a key."""

from __future__ import annotations

import ipaddress


def is_loopback(address: str) -> bool:
    """127.0.0.0/8, ::1, or the former written as IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def needs_keys(asked: str, host: str) -> bool:
    """Whether callers of an API that listens on `host` need a key, by the setting `auth`."""
    return asked == "on" or (asked == "auto" and host != "localhost" and not is_loopback(host))
