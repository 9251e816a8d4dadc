"""Calls to addresses that a caller has named: one checked address, one request, an answer of bounded size and time.

The name is resolved here, once, and the connection goes to the very address that was checked: a name server that
answers differently the second time (DNS rebinding) is not asked again. TLS still asks for the name, and checks the
certificate against it. No redirect is followed, no proxy of the environment used, no connection kept: a kept one would
be found again by its address, though it was verified for another name.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.addresses import Rules, Target, check_url, checked_addresses
from shared.errors import AddressRefused, CallFailed

if TYPE_CHECKING:
    import httpx

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whatever its status; a redirect too."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def system_resolver(host: str, port: int) -> list[str]:
    """The addresses of a name, as this machine resolves it. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Outbound:
    """For one event loop; `close` it. httpx is imported with the first."""

    def __init__(
        self, rules: Rules, *, resolver: Resolver = system_resolver, tls: ssl.SSLContext | None = None
    ) -> None:
        import httpx

        self._rules, self._resolver = rules, resolver
        self._client = httpx.AsyncClient(
            verify=tls or True,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        """No call after it."""
        await self._client.aclose()

    async def call(
        self,
        method: str,
        url: str,
        *,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
        max_bytes: int = 1_000_000,
        whole: bool = True,
    ) -> Answer:
        """Raises AddressRefused, before anything is connected; CallFailed for what goes wrong then, an answer of more
        than `max_bytes`, and one that takes longer than `timeout_s` in all, the resolver's time included. Not `whole`:
        of a longer answer the first `max_bytes` are read."""
        target = check_url(url, self._rules)
        try:
            async with asyncio.timeout(timeout_s):
                requests = [
                    self._request(target, str(address), method, content, headers or {})
                    for address in await self._addresses(target)
                ]
                return await self._first(requests, max_bytes, whole)
        except TimeoutError:
            raise CallFailed(f"{target.host} has not answered within {timeout_s:g} s") from None

    async def _addresses(self, target: Target) -> Sequence[object]:
        if target.literal is not None:
            return checked_addresses([target.host], target, self._rules)
        try:
            found = await self._resolver(target.host, target.port)
        except (OSError, UnicodeError):
            raise AddressRefused(f"{target.host} has no address") from None
        return checked_addresses(found, target, self._rules)

    def _request(
        self, target: Target, address: str, method: str, content: bytes, headers: Mapping[str, str]
    ) -> httpx.Request:
        host = f"[{address}]" if ":" in address else address
        return self._client.build_request(
            method,
            f"{target.scheme}://{host}:{target.port}{target.path}",
            content=content,
            headers={"Accept-Encoding": "identity", **headers, "Host": target.authority},
            extensions={"sni_hostname": target.host},
            timeout=None,  # the whole call has one
        )

    async def _first(self, requests: Sequence[httpx.Request], max_bytes: int, whole: bool) -> Answer:
        """Of the first address that can be reached."""
        import httpx

        for last, request in enumerate(requests, 1 - len(requests)):
            try:
                return await self._send(request, max_bytes, whole)
            except (httpx.HTTPError, httpx.StreamError, ssl.SSLError) as error:
                if not (last < 0 and isinstance(error, httpx.ConnectError)):
                    raise CallFailed(f"the call failed: {type(error).__name__}") from None
        raise AssertionError("there is at least one address")

    async def _send(self, request: httpx.Request, max_bytes: int, whole: bool) -> Answer:
        answer = await self._client.send(request, stream=True)
        async with contextlib.aclosing(answer):
            body = bytearray()
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > max_bytes and not whole:
                    del body[max_bytes:]
                    break
                if len(body) > max_bytes:
                    raise CallFailed(f"the answer has more than {max_bytes} bytes")
            return Answer(answer.status_code, dict(answer.headers), bytes(body))
