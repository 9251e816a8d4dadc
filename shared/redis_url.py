"""ML_REDIS_URL: where Redis is. The spellings are kombu's, so that plain Celery producers can use the same; what kombu
has no spelling for stands in the query, and is taken out of it for kombu (shared/queue.py)."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from shared.errors import ConfigError

FORMS = (
    "redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS), redis+socket:///PATH or "
    "sentinel://HOST:PORT/DB;sentinel://HOST:PORT/DB?master_name=NAME"
)
_SCHEMES = ("redis", "rediss", "redis+socket", "sentinel")
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS = (*_TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname")
_KNOWN = {
    "redis": (),
    "rediss": _TLS,
    "redis+socket": ("virtual_host",),
    "sentinel": ("master_name", "sentinel_username", "sentinel_password", *_TLS),
}
_MOST_DIGITS = 9
_CERT_REQS = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is. `hosts` are those of the sentinels where `master` is set, and none where `path` (of a Unix
    socket) is. `tls` has redis-py's names; empty means none. `sentinel_login` goes to the sentinels, the rest to the
    server."""

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    db: int = 0
    login: dict[str, str] = field(default_factory=dict, repr=False)
    tls: dict[str, Any] = field(default_factory=dict)
    master: str = ""
    sentinel_login: dict[str, str] = field(default_factory=dict, repr=False)

    def place(self) -> str:
        """For a person; without a password."""
        hosts = ", ".join(f"{host}:{port}" for host, port in self.hosts)
        return f"the master {self.master} of the sentinels {hosts}" if self.master else self.path or hosts

    def stock_url(self) -> str:
        """As kombu and Celery understand it: no options in the query, and in each part all that is the same for all,
        since kombu takes one part after the other when a connection fails."""
        user, password = (quote(self.login.get(name, ""), safe="") for name in ("username", "password"))
        login = f"{user}:{password}@" if self.login else ""
        if self.path:
            return f"{self.scheme}://{login}{quote(self.path)}?virtual_host={self.db}"
        hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return ";".join(f"{self.scheme}://{login}{host}/{self.db}" for host in hosts)


def parse(url: str) -> Address:
    """Raises ConfigError that tells what is wrong with ML_REDIS_URL, and no secret."""
    try:
        return _address([_split(part) for part in url.split(";")])
    except _Wrong as wrong:
        raise ConfigError(f"ML_REDIS_URL: {wrong}") from None


class _Wrong(Exception):
    pass


def _split(part: str) -> SplitResult:
    # The library's own messages quote the URL, and with it a password that is not encoded.
    scheme, found, _ = part.strip().partition("://")
    if not found or scheme not in _SCHEMES:
        told = f"{scheme}:// is none of its schemes" if found and re.fullmatch(r"[a-z+]{1,20}", scheme) else "not a URL"
        raise _Wrong(f"{told}; use {FORMS}")
    try:
        split = urlsplit(part.strip())
        _ = split.port, split.hostname
    except ValueError:
        raise _Wrong(
            "host and port cannot be read (in a password, / ? # @ : ; and % must be written as %2F and so on)"
        ) from None
    if split.fragment:
        raise _Wrong("there is a # in it; in a password it must be written as %23")
    return split


def _address(parts: list[SplitResult]) -> Address:
    scheme = parts[0].scheme
    if len(parts) > 1 and {part.scheme for part in parts} != {"sentinel"}:
        raise _Wrong("only sentinel:// takes several servers, each with its scheme, separated by ;")
    query = _query(scheme, parts)
    master = query.get("master_name", "")
    if scheme == "sentinel" and not master:
        raise _Wrong("sentinel:// needs the master's name: ?master_name=NAME at its end")
    if scheme == "redis+socket":
        path, db = unquote(parts[0].path), _number(query.get("virtual_host", ""))
        if parts[0].hostname or not path.strip("/"):
            raise _Wrong("redis+socket:// takes an absolute path after its two slashes: redis+socket:///PATH")
        return Address(scheme, path=path, db=db, login=_login(parts[0]))
    logins = [login for login in map(_login, parts) if login]
    databases = {_number(part.path.strip("/")) for part in parts if part.path.strip("/")}
    if any(login != logins[0] for login in logins) or len(databases) > 1:
        raise _Wrong("all sentinel:// parts lead to one server: they must have the same user, password and database")
    return Address(
        scheme,
        hosts=tuple(_host(part) for part in parts),
        db=max(databases, default=0),
        login=logins[0] if logins else {},
        tls=_tls(query, always=scheme == "rediss"),
        master=master,
        sentinel_login={
            name: query[f"sentinel_{name}"] for name in ("username", "password") if query.get(f"sentinel_{name}")
        },
    )


def _query(scheme: str, parts: list[SplitResult]) -> dict[str, str]:
    query: dict[str, str] = {}
    for part in parts:
        query.update(parse_qsl(part.query, keep_blank_values=True))
    for name in query:
        if scheme == "redis" and name in _TLS:
            raise _Wrong(f"{name} needs TLS: rediss://")
        if name not in _KNOWN[scheme]:
            known = ", ".join(_KNOWN[scheme]) or "none"
            raise _Wrong(f"an option that {scheme}:// does not have stands after the ?; it has: {known}")
    return query


def _host(part: SplitResult) -> tuple[str, int]:
    if part.scheme == "sentinel":
        if not part.hostname:
            raise _Wrong("a sentinel:// part has no host")
        return part.hostname, part.port or 26379
    return part.hostname or "127.0.0.1", part.port or 6379


def _login(part: SplitResult) -> dict[str, str]:
    pairs = {"username": part.username, "password": part.password}
    return {name: unquote(value) for name, value in pairs.items() if value}


def _number(text: str) -> int:
    if text and not (text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise _Wrong("the database is not a number")
    return int(text or 0)


def _tls(query: dict[str, str], *, always: bool) -> dict[str, Any]:
    """A certificate is asked for unless the URL says otherwise; kombu's own default would be to ask for none."""
    given = {name: query[name] for name in _TLS if query.get(name)}
    if not given and not always:
        return {}
    for name in _TLS_FILES:
        if name in given and not os.path.isfile(given[name]):  # Path's would raise for a name that is too long
            raise _Wrong(f"{name}: there is no file {given[name]}")
    reqs = given.pop("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if reqs not in _CERT_REQS:
        raise _Wrong(f"ssl_cert_reqs is one of {', '.join(_CERT_REQS)}")
    check = given.pop("ssl_check_hostname", "true").lower()
    if check not in ("true", "false"):
        raise _Wrong("ssl_check_hostname is true or false")
    return given | {"ssl_cert_reqs": _CERT_REQS[reqs], "ssl_check_hostname": check == "true"}
