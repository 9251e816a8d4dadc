"""Calls to addresses that callers name, against real servers on loopback and a resolver that may lie."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest
import trustme

from shared.addresses import Rules
from shared.errors import AddressRefused, CallFailed
from shared.outbound import Outbound, system_resolver

LOOPBACK = Rules.parse("127.0.0.1")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Listener:
    """Answers every request with the same bytes, and keeps what was asked."""

    port: int
    asked: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    connections: int = 0


@contextlib.asynccontextmanager
async def listening(
    answer: bytes = OK, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, drip_s: float = 0.0
) -> AsyncIterator[Listener]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            found.asked.append(await reader.readuntil(b"\r\n\r\n"))
            for at in range(0, len(answer), 1 if drip_s else len(answer)):
                writer.write(answer[at : at + 1] if drip_s else answer)
                await writer.drain()
                await asyncio.sleep(drip_s)
        writer.close()

    if tls is not None:
        tls.sni_callback = lambda _, name, __: found.names.append(name)
    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    found = Listener(server.sockets[0].getsockname()[1])
    try:
        yield found
    finally:
        server.close()


class Resolver:
    """Answers in order, the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.asked = list(answers), 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
async def caller() -> AsyncIterator[Callable[..., Outbound]]:
    made: list[Outbound] = []

    def make(*answers: Sequence[str], rules: Rules = LOOPBACK, tls: ssl.SSLContext | None = None) -> Outbound:
        made.append(Outbound(rules, resolver=Resolver(*answers), tls=tls))
        return made[-1]

    yield make
    for one in made:
        await one.close()


Make = Callable[..., Outbound]


async def test_a_call(caller: Make) -> None:
    async with listening() as server:
        answer = await caller(["127.0.0.1"]).call(
            "POST", f"http://hook.example:{server.port}/a?b=c#d", content=b"x", headers={"X-A": "b"}
        )
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"ok", "2")
    (asked,) = server.asked
    assert asked.startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert f"Host: hook.example:{server.port}\r\n".encode() in asked
    assert asked.count(b"ost: ") == 1
    assert b"X-A: b\r\n" in asked


async def test_nothing_is_connected_where_it_is_refused(caller: Make) -> None:
    async with listening() as server:
        for answers in (["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["::1"], []):
            with pytest.raises(AddressRefused):
                await caller(answers, rules=Rules()).call("GET", f"http://hook.example:{server.port}/")
        for host in ("127.0.0.1", "127.1", "[::1]", "2130706433", "[::ffff:127.0.0.1]"):
            with pytest.raises(AddressRefused):
                await caller(["8.8.8.8"], rules=Rules()).call("GET", f"http://{host}:{server.port}/")
        one = Outbound(Rules(), resolver=system_resolver)
        with pytest.raises(AddressRefused):
            await one.call("GET", f"http://localhost:{server.port}/")
        await one.close()
        assert server.connections == 0


async def test_a_name_that_changes_its_mind_is_asked_once(caller: Make) -> None:
    """The first answer is allowed, the second would be another server of this machine."""
    async with listening() as good, listening(host="127.0.0.2") as bad:
        outbound = caller(["127.0.0.1"], ["127.0.0.2"])
        resolver = outbound._resolver
        assert isinstance(resolver, Resolver)
        assert (await outbound.call("GET", f"http://rebind.example:{good.port}/")).status == 200
        assert (resolver.asked, good.connections) == (1, 1)
        with pytest.raises(AddressRefused):
            await outbound.call("GET", f"http://rebind.example:{bad.port}/")
        assert bad.connections == 0


async def test_an_address_that_does_not_answer_is_passed_over(caller: Make) -> None:
    async with listening(host="127.0.0.2") as server:
        rules = Rules.parse("127.0.0.0/8")
        answer = await caller(["127.0.0.3", "127.0.0.2"], rules=rules).call("GET", f"http://a.example:{server.port}/")
        assert answer.status == 200
        with pytest.raises(CallFailed, match="ConnectError"):
            await caller(["127.0.0.3"], rules=rules).call("GET", f"http://a.example:{server.port}/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_answers(caller: Make, status: int) -> None:
    async with listening(host="127.0.0.2") as inner:
        moved = f"HTTP/1.1 {status} Moved\r\nLocation: http://127.0.0.2:{inner.port}/\r\nContent-Length: 0\r\n\r\n"
        async with listening(moved.encode()) as server:
            answer = await caller(["127.0.0.1"]).call("GET", f"http://a.example:{server.port}/")
        assert (answer.status, server.connections, inner.connections) == (status, 1, 0)


async def test_no_proxy_of_the_environment_is_used(caller: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as proxy, listening() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await caller(["127.0.0.1"]).call("GET", f"http://a.example:{server.port}/")
        assert (proxy.connections, server.connections) == (0, 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n" + b"0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"220 mail.example ESMTP\r\n",
        b"\0" * 100,
    ],
)
async def test_answers_have_a_bound_and_a_form(caller: Make, answer: bytes) -> None:
    async with listening(answer) as server:
        with pytest.raises(CallFailed):
            await caller(["127.0.0.1"]).call("GET", f"http://a.example:{server.port}/", max_bytes=1000)


async def test_the_whole_call_has_one_time(caller: Make) -> None:
    """Something comes all the time, so no time between two pieces would end it."""
    async with listening(OK[:-1] + b"k" * 1000, drip_s=0.02) as server:
        began = time.monotonic()
        with pytest.raises(CallFailed, match=r"within 0\.3 s"):
            await caller(["127.0.0.1"]).call("GET", f"http://a.example:{server.port}/", timeout_s=0.3)
        assert time.monotonic() - began < 5

    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    slow = Outbound(LOOPBACK, resolver=never)
    with pytest.raises(CallFailed, match=r"within 0\.05 s"):
        await slow.call("GET", "http://a.example/", timeout_s=0.05)
    await slow.close()


async def test_tls_is_for_the_name_though_the_connection_is_to_the_address(caller: Make) -> None:
    authority = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hook.example").configure_cert(served)
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    async with listening(tls=served) as server:
        outbound = caller(["127.0.0.1"], tls=trusted)
        assert (await outbound.call("GET", f"https://hook.example:{server.port}/")).body == b"ok"
        assert server.names == ["hook.example"]
        for host in ("other.example", "127.0.0.1"):
            with pytest.raises(CallFailed):
                await outbound.call("GET", f"https://{host}:{server.port}/")
        with pytest.raises(CallFailed):
            await caller(["127.0.0.1"]).call("GET", f"https://hook.example:{server.port}/")
        assert len(server.asked) == 1, "who is not trusted gets no request"


async def test_connections_are_not_kept_for_another_name(caller: Make) -> None:
    async with listening(OK) as server:
        outbound = caller(["127.0.0.1"])
        for name in ("a.example", "a.example", "b.example"):
            await outbound.call("GET", f"http://{name}:{server.port}/")
        assert server.connections == 3
