"""Who may administer: a key with the scope admin; where keys are off, only who asks from this very machine."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import Request

from api.auth import caller_of
from shared.api_keys import Scope
from shared.errors import Forbidden
from shared.loopback import is_loopback

# A proxy on this machine speaks for somebody else. Any of these also means that `request.client` may not be the
# socket's peer: uvicorn puts X-Forwarded-For there when the peer is one that it trusts.
_FORWARDING = ("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip")


async def admin_only(request: Request) -> None:
    """A dependency of administrative routes. Raises Forbidden."""
    caller = caller_of(request)
    if caller.key is None:
        from_this_machine(request)
    elif not caller.may(Scope.ADMIN):
        raise Forbidden("this API key has no scope 'admin'")


def from_this_machine(request: Request) -> None:
    """The rule where keys are off. Raises Forbidden unless the connection comes from a loopback address, no
    proxy has passed it on, and it was made to a loopback name (a page in a browser on this machine could otherwise
    ask, in its own name or, by DNS rebinding, in ours)."""
    for name in request.headers:
        if name in _FORWARDING or name.startswith("x-forwarded"):
            raise Forbidden(f"administration answers only to this machine, and this request was passed on ({name})")
    if request.client is None or not is_loopback(request.client.host):
        raise Forbidden("administration answers only to this machine: ask from a loopback address")
    for name, url in (("Host", f"//{request.headers.get('host', '')}"), ("Origin", request.headers.get("origin"))):
        if url is not None and not _is_local_name(url):
            raise Forbidden(f"administration answers only to this machine: {name} must be localhost or 127.0.0.1")


def _is_local_name(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return name == "localhost" or is_loopback(name)
