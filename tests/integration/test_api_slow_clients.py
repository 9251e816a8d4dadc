"""Slow clients and floods of headers, on real sockets, beside a client that is served all the time."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from api.protocol import MAX_FIELDS, MAX_HEAD, MAX_TARGET
from local.embedded import EmbeddedServer
from tests.api_stack import MODELS
from tests.conftest import wait_until
from tests.processes import api

CAP = 3_000_000
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def url(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("api") / "models.yaml"
    models.write_text(MODELS)
    quick = {"ML_HEADER_TIMEOUT_S": "0.4", "ML_BODY_TIMEOUT_S": "0.6", "ML_MAX_BODY_BYTES": str(CAP)}
    with api(server.url, models, **quick) as found:
        yield found


@pytest.fixture(autouse=True)
def neighbour(url: str) -> Iterator[None]:
    """Asks again and again while the test runs, on one kept connection, and is answered each time."""
    stop, asked, wrong = threading.Event(), [0], []

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
            while not stop.is_set():
                answer = client.post("/v1/jobs", json={"model": "echo", "input": 1, "deadline_s": 1})
                if answer.status_code != 202:
                    wrong.append(answer.text)
                asked[0] += 1
                stop.wait(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        before = asked[0]
        wait_until(lambda: asked[0] > before + 1 or not thread.is_alive(), what="it is served at the end too")
        alive = thread.is_alive()
        stop.set()
        thread.join(20)
    assert (wrong, alive) == ([], True)


@contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as found:
        yield found


def answer(sock: socket.socket) -> tuple[int, str]:
    """Status and code of what comes until the server closes."""
    read = b""
    while chunk := sock.recv(65536):
        read += chunk
    head, _, body = read.partition(b"\r\n\r\n")
    assert b"x-request-id: " in head
    assert b"connection: close" in head
    return int(head.split(b" ")[1]), orjson.loads(body)["code"]


def exchange(url: str, *pieces: bytes, between_s: float = 0.0) -> tuple[int, str]:
    with connection(url) as sock:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(between_s)
        return answer(sock)


def send_for_ever(sock: socket.socket, piece: bytes) -> None:
    """Raises OSError when the server has had enough."""
    began = time.monotonic()
    while time.monotonic() - began < 30:
        sock.sendall(piece)
        time.sleep(0.005)


@pytest.mark.parametrize(
    "begun",
    [b"G", b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 999],
)
def test_a_head_that_stops_is_408(url: str, begun: bytes) -> None:
    assert exchange(url, begun) == (408, "request_timeout")


def test_a_head_that_drips_is_408_though_something_comes_all_the_time(url: str) -> None:
    with connection(url) as sock:
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        began = time.monotonic()
        sock.settimeout(0.1)
        first = b""
        while not first:
            assert time.monotonic() - began < 20
            sock.sendall(b"a: b\r\n")
            try:
                first = sock.recv(12)
            except TimeoutError:
                continue
        assert first == b"HTTP/1.1 408"


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Content-Length: 100\r\n\r\n",
        POST + b"Content-Length: 100\r\n\r\n{",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"GET /livez/none HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
    ],
)
def test_a_body_that_stops_is_408_where_it_is_awaited(url: str, sent: bytes) -> None:
    """The last is answered before its body would have been read."""
    with connection(url) as sock:
        sock.sendall(sent)
        if b"none" in sent:
            assert sock.recv(12) == b"HTTP/1.1 404"
            return
        assert answer(sock) == (408, "request_timeout")


def test_a_slow_body_that_keeps_its_pace_is_taken(url: str) -> None:
    """Four times as long as ML_BODY_TIMEOUT_S, at more than the 10 kB a second that are asked for."""
    body = orjson.dumps({"model": "echo", "input": "x" * 60_000, "deadline_s": 1})
    with connection(url) as sock:
        sock.sendall(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        began = time.monotonic()
        for at in range(0, len(body), 6_000):
            sock.sendall(body[at : at + 6_000])
            time.sleep(0.24)
        assert time.monotonic() - began > 2.4
        assert sock.recv(12) == b"HTTP/1.1 202"


def test_who_is_idle_and_who_waits_is_not_cut(url: str) -> None:
    job = httpx.post(f"{url}/v1/jobs", json={"model": "echo", "input": 1}, trust_env=False).json()["id"]
    with connection(url) as fresh, connection(url) as kept, connection(url) as waiting:
        kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(12) == b"HTTP/1.1 200"
        waiting.sendall(f"GET /v1/jobs/{job}?wait=2 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert waiting.recv(12) == b"HTTP/1.1 200"
        for idle in (fresh, kept):
            idle.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"200 OK" in idle.makefile("rb").read()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /livez?" + b"a" * MAX_TARGET + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /" + b"a" * 400_000, 414),
        (b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_FIELDS + 1) + b"\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\na: " + b"b" * MAX_HEAD + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"a" * MAX_HEAD, 431),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200_000, 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * (MAX_FIELDS + 1), 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: \0\r\n\r\n", 400),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"CONNECT evil:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
def test_floods_and_what_is_no_http(url: str, head: bytes, status: int) -> None:
    codes = {400: "bad_request", 414: "uri_too_long", 431: "headers_too_large"}
    assert exchange(url, head) == (status, codes[status])


def test_as_much_as_is_allowed_is_taken(url: str) -> None:
    target = "/livez?" + "a" * (MAX_TARGET - 7)
    fields = {f"x-{number}": "b" * 200 for number in range(MAX_FIELDS - 10)}
    assert httpx.get(url + target, headers=fields, trust_env=False).status_code == 200


def test_many_slow_clients_at_once_all_go(url: str) -> None:
    socks = []
    parts = urlsplit(url)
    for _ in range(200):
        sock = socket.create_connection((parts.hostname, parts.port), timeout=20)
        sock.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost:")
        socks.append(sock)
    assert {answer(sock) for sock in socks} == {(408, "request_timeout")}
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_100_mb_are_refused_early_and_the_refusal_can_be_read(url: str, chunked: bool) -> None:
    with connection(url) as sock:
        told = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 100000000"
        sock.sendall(POST + told + b"\r\n\r\n")
        chunk = b"20000\r\n" + b"x" * 0x20000 + b"\r\n" if chunked else b"x" * 0x20000
        sent = 0
        sock.settimeout(0.001)
        head = b""
        while not head and sent < 100_000_000:
            try:
                head = sock.recv(12)
            except TimeoutError:
                sock.settimeout(20)
                sock.sendall(chunk)
                sent += len(chunk)
                sock.settimeout(0.001)
        assert head == b"HTTP/1.1 413"
        assert sent < 2 * CAP + 4_000_000, "what lies in the sockets' buffers is all that was sent too much"


def test_a_client_that_sends_all_before_it_reads_gets_its_413(url: str) -> None:
    with httpx.Client(trust_env=False, timeout=20) as client:
        refused = client.post(f"{url}/v1/jobs", content=b"x" * 20_000_000)
        assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")
        assert client.get(f"{url}/livez").status_code == 200


def test_an_endless_body_is_cut_though_it_was_answered(url: str) -> None:
    with connection(url) as sock:
        sock.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(OSError, match=r"(?i)reset|pipe"):
            send_for_ever(sock, b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def bomb(size: int, kind: str = "gzip") -> bytes:
    window = {"gzip": 31, "deflate": 15}[kind]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, window)
    return squeeze.compress(b" " * size) + squeeze.flush()


@pytest.mark.parametrize("kind", ["gzip", "deflate"])
def test_a_bomb_is_413_and_costs_no_memory(url: str, kind: str) -> None:
    packed = bomb(100_000_000, kind)
    headers = {"content-encoding": kind, "content-type": "application/json"}
    before = _memory(url)
    for _ in range(3):
        refused = httpx.post(f"{url}/v1/jobs", content=packed, headers=headers, trust_env=False, timeout=20)
        assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")
    assert _memory(url) - before < 30_000_000, "not the 100 MB that are in it"


def test_a_compressed_job_is_a_job(url: str) -> None:
    body = gzip.compress(orjson.dumps({"model": "echo", "input": "a" * 1000, "deadline_s": 1}))
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    assert httpx.post(f"{url}/v1/jobs", content=body, headers=headers, trust_env=False).status_code == 202


def _memory(url: str) -> float:
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    return float(
        next(line for line in text.splitlines() if line.startswith("process_resident_memory_bytes")).split()[1]
    )


def test_who_does_not_read_the_answer_is_cut(url: str) -> None:
    """Each answer is short, but a pipeline of them fills any buffer."""
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with connection(url) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises(OSError, match=r"(?i)reset|pipe"):
            send_for_ever(sock, asked * 100)
