"""Requests to a real API on a real socket: it answers each with a reason, and the next one as if nothing had been."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import redis
from hypothesis import assume
from hypothesis import strategies as st

from api.bodies import read_json
from api.inflate import _STEP, _Inflated
from api.inputs import InputCheck, SchemaCheck, TaskCheck
from local.embedded import EmbeddedServer
from shared.depth import too_deep
from shared.errors import BadRequest, InvalidInput, TooLarge
from shared.task import Blob, Strict, Task
from shared.tasks import BUILT_IN
from tests.api_stack import serving, settings
from tests.fuzz.bounds import fuzzed
from tests.fuzz.hostile import changed, damaged, json_values, odd_values, pieces

CAP = 200_000
REASONS = {"queue_full", "deadline_exceeded", "wait_ended"}  # of 503 and 504; there is no worker here


class Service:
    """The API, in a thread of its own, and what went wrong in it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.failures: list[str] = []

    def send(self, *parts: bytes) -> bytes:
        """All that comes back. The end of what is sent is told."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):  # refused before the end
                for part in parts:
                    sock.sendall(part)
                sock.shutdown(socket.SHUT_WR)
            found = b""
            with contextlib.suppress(ConnectionError):
                while more := sock.recv(65_536):
                    found += more
            return found

    def ask(self, method: str, target: str, body: bytes = b"", *headers: tuple[str, bytes]) -> tuple[int, Any]:
        """Status and JSON of one request. Header values without line ends, which would end them."""
        lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: x", b"Connection: close"]
        lines += [b"Content-Length: %d" % len(body)]
        lines += [name.encode() + b": " + re.sub(rb"[\r\n\0]", b"", value) for name, value in headers]
        answer = self.send_whole(b"\r\n".join([*lines, b"", b""]) + body)
        head, _, content = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), orjson.loads(content) if content else None

    def send_whole(self, data: bytes) -> bytes:
        """As `send`, but who asks stays: an end would cancel a call that waits."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock:
            sock.sendall(data)
            return b"".join(iter(lambda: sock.recv(65_536), b""))

    def expect_reason(self, status: int, answer: Any) -> None:
        """No error of the service, and of the framework none in another form."""
        assert status < 500 or (status in (503, 504) and answer["code"] in REASONS), (status, answer)
        assert status < 400 or answer["code"], (status, answer)
        self.expect_alive()

    def expect_alive(self) -> None:
        """It answers, and nothing went wrong out of sight."""
        assert self.ask("GET", "/livez")[0] == 200
        assert self.failures == []


@pytest.fixture(scope="module")
def service(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder, started, ended = tmp_path_factory.mktemp("api"), threading.Event(), threading.Event()
    found: list[Service] = []
    redis.Redis.from_url(server.url).flushall()
    asked = settings(server.url, folder, max_body_bytes=CAP, inference_wait_s=0.01, max_wait_s=0.01)

    async def serve() -> None:
        async with serving(asked) as api:
            service = Service(api.port)
            asyncio.get_running_loop().set_exception_handler(lambda _, told: service.failures.append(str(told)))
            found.append(service)
            started.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(30)
        yield found[0]
    finally:
        ended.set()
        thread.join(30)
        redis.Redis.from_url(server.url).flushall()


JOBS: list[Any] = [
    {"model": "echo", "input": {"a": [1, "b", None]}, "labels": {"a": "b"}, "priority": "high"},
    {"model": "echo", "version": "1", "input": "x", "deadline_s": 5, "result_ttl_s": 60, "sticky": "user-1"},
    {"model": "bert@best", "input": {"texts": ["a", "b"]}, "parameters": {"normalize": True, "partial": True}},
    {"model": "bert", "input": [{"text": "a"}, {"text": "b"}], "parameters": {"dimensions": 8}},
    {"model": "cnn", "input": {"image": "iVBORw0KGgo="}, "parameters": {"top_k": 3}},
    {"model": "own", "input": {"anything": {"at": "all"}}},
]
CALLS = [{"model_type": job["model"], "data": job["input"]} for job in JOBS]
KINDS = st.sampled_from(
    [
        b"application/json",
        b"text/plain",
        b"",
        b"application/x+json; charset=latin-1",
        b"image/png",
        b"multipart/form-data",
    ]
)
ASYNC = ("Prefer", b"respond-async")


@fuzzed(changed(JOBS), examples=60)
def test_jobs(service: Service, body: Any) -> None:
    status, answer = service.ask("POST", "/v1/jobs", json.dumps(body).encode())
    service.expect_reason(status, answer)
    if status == 202:
        assert service.ask("GET", f"/v1/jobs/{answer['id']}")[1]["labels"] == body.get("labels", {})


@fuzzed(changed(CALLS), examples=30)
def test_inference(service: Service, body: Any) -> None:
    service.expect_reason(*service.ask("POST", "/inference", json.dumps(body).encode()))


@fuzzed(damaged([orjson.dumps(job) for job in JOBS]), KINDS, examples=40)
def test_bodies_that_are_hardly_json(service: Service, body: bytes, kind: bytes) -> None:
    query = "?model=cnn&labels={}" if kind.startswith(b"image") else ""
    service.expect_reason(*service.ask("POST", f"/v1/jobs{query}", body, ("Content-Type", kind)))


def _form(boundary: bytes, *parts: bytes) -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


_FIELD = b'Content-Disposition: form-data; name="%s"\r\n\r\n%s'
_FILE = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n\x89PNG'
_NAMED = b"Content-Disposition: form-data; name=\"image\"; filename*=UTF-8''%e2%82%ac\r\n\r\n\x89PNG"
FORMS = [
    _form(b"b", _FIELD % (b"model", b"cnn"), _FILE),
    _form(b"b", _FIELD % (b"model", b"cnn"), _FIELD % (b"parameters", b'{"top_k": 2}'), _FILE, _NAMED),
    _form(b"b", _FIELD % (b"model", b"echo"), _FIELD % (b"input", b'{"a": 1}'), _FIELD % (b"labels", b"{}")),
    _form(b"b", *[_FIELD % (b"model", b"echo")] * 70),
]


# Starlette leaves the file of a part that was cut off to Python, which closes it at once, and says so.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function SpooledTemporaryFile")
@fuzzed(damaged(FORMS), damaged([b"multipart/form-data; boundary=b", b'multipart/form-data; boundary="b"; a=b']))
def test_multipart(service: Service, body: bytes, kind: bytes) -> None:
    service.expect_reason(*service.ask("POST", "/v1/jobs", body, ("Content-Type", kind)))


HEADERS = {
    "Prefer": [b"respond-async, wait=1", b'wait="1"; a=b'],
    "Idempotency-Key": [b"a" * 255, b'"8e03978e-40d5-43dd-bc93-6894a57f9324"'],
    "X-Request-ID": [b"3f2b1c", b"a" * 129],
    "traceparent": [b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
    "tracestate": [b"a=1,b@c=2"],
    "If-Match": [b'"1-abc"', b"*", b'W/"a"'],
    "Authorization": [b"Bearer mls_abc", b"Basic YTpi"],
    "Accept": [b"application/json;q=0.5, */*"],
    "Content-Encoding": [b"gzip", b"deflate", b"identity, gzip"],
    "Expect": [b"100-continue"],
    "Forwarded": [b"for=127.0.0.1;host=a"],
    "Range": [b"bytes=0-1"],
}
headers = st.lists(
    st.sampled_from(sorted(HEADERS)).flatmap(lambda name: st.tuples(st.just(name), damaged(HEADERS[name]))), max_size=6
)


@fuzzed(headers, st.sampled_from(["POST", "GET", "PUT"]))
def test_headers(service: Service, headers: list[tuple[str, bytes]], method: str) -> None:
    target, body = "/v1/jobs", b'{"model": "echo", "input": 1}'
    if method == "GET":
        target, body = "/v1/models", b""
    elif method == "PUT":
        target, body = "/v1/models/echo/traffic?dry_run=true", b'{"traffic": {"1": 1}}'
    service.expect_reason(*service.ask(method, target, body, *headers))


MODELS: list[Any] = [
    {"task": "echo", "versions": {"1": {}, "2": {"source": "a", "x": [1, {"y": 2}]}}, "traffic": {"1": 1, "2": 0}},
    {"handler": "a.py:B", "versions": {"1": {"source": "s3://a/b.zip", "sha256": "0" * 64}}, "aliases": {"best": "1"}},
    {"task": "echo", "versions": {"1": {}}, "limits": {"timeout_s": 3, "per_key": {"requests": "9/minute"}}},
    {"task": "echo", "versions": {"1": {}}, "batch": {"max_cost": "auto"}, "load": "lazy", "keep_alive_s": 1},
]


@fuzzed(changed(MODELS))
def test_models(service: Service, body: Any) -> None:
    service.expect_reason(*service.ask("PUT", "/v1/models/new?dry_run=true", json.dumps(body).encode()))
    wrapped = json.dumps({"models": {"new": body}}).encode()
    service.expect_reason(*service.ask("PUT", "/v1/models?dry_run=1", wrapped))


KEY = {"name": "a", "scopes": ["read"], "models": ["echo"], "limits": {"requests": "1/second"}}


@fuzzed(changed([KEY, KEY | {"expires_at": "2030-01-01T00:00:00Z"}, {"name": "b", "weight": 3}]), examples=40)
def test_keys(service: Service, body: Any) -> None:
    status, made = service.ask("POST", "/v1/keys", json.dumps(body).encode())
    service.expect_reason(status, made)
    if status < 300:
        service.expect_reason(*service.ask("GET", "/v1/keys"))
        service.expect_reason(*service.ask("DELETE", f"/v1/keys/{made['id']}"))


@fuzzed(
    st.sampled_from(["/v1/jobs/{}", "/v1/dead/{}", "/v1/models/{}", "/v1/keys/{}", "/{}", "/v1/dead?{}"]), st.text()
)
def test_paths(service: Service, path: str, text: str) -> None:
    target = path.format(quote(text, safe="/=&%" if "?" in path else "/"))
    status, answer = service.ask("GET", target)
    if not (status == 200 and "data" not in answer and "letters" in answer):
        assert status < 500 or answer["code"] in REASONS, (status, answer)
    service.expect_alive()


REQUESTS = [
    b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/jobs/x?wait=1 HTTP/1.1\r\nHost: x\r\nPrefer: wait=2\r\n\r\n",
    b'POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 27\r\n\r\n{"model":"echo","input":12}',
    b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'1b\r\n{"model":"echo","input":12}\r\n0\r\n\r\n',
    b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET http://other/livez?a=b#c HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 99 + b"\r\n",
]


@fuzzed(st.lists(damaged(REQUESTS), min_size=1, max_size=4).map(b"".join).flatmap(pieces), examples=60)
def test_bytes_on_a_socket(service: Service, parts: list[bytes]) -> None:
    for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", service.send(*parts)):
        assert int(status) < 500 or int(status) in (501, 503, 504), status
    service.expect_alive()


def _squeezed(data: bytes, window: int) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, window)
    return stream.compress(data) + stream.flush()


_PLAIN = [b"", b"a", orjson.dumps(JOBS), bytes(3 * CAP), b"ab" * 3000]
PACKED = [_squeezed(data, window) for data in _PLAIN for window in (31, 15, -15)]


def _inflated(kind: str, parts: list[bytes]) -> bytes:
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False

    async def receive() -> Any:
        return messages.pop(0)

    async def read() -> bytes:
        found, body = b"", _Inflated(receive, kind, CAP)
        while True:
            message = await body()
            assert len(message["body"]) <= _STEP
            found += message["body"]
            assert len(found) <= CAP
            if not message["more_body"]:
                return found

    return asyncio.run(read())


@fuzzed(damaged(PACKED).flatmap(pieces), st.sampled_from(["gzip", "deflate"]), examples=70)
def test_inflated_bodies_are_what_zlib_says(parts: list[bytes], kind: str) -> None:
    data = b"".join(parts)
    window = 31 if kind == "gzip" else 15 if data and data[0] & 0x0F == 8 else -15
    stream, expected, told = zlib.decompressobj(window), b"", ""
    with contextlib.suppress(zlib.error):
        expected = stream.decompress(data)
        told = "" if (stream.eof or not data) and not stream.unused_data else "cut, or more behind it"
        told = "too much" if len(expected) > CAP else told
        try:
            assert _inflated(kind, parts) == expected
        except (BadRequest, TooLarge):
            assert told
        else:
            assert not told
        return
    with pytest.raises((BadRequest, TooLarge)):
        _inflated(kind, parts)


@fuzzed(damaged([orjson.dumps(job) for job in JOBS] + [b"[" * n + b"]" * n for n in (1, 199, 200, 201, 300, 1100)]))
def test_json(body: bytes) -> None:
    try:
        found = read_json(body)
    except BadRequest:
        return
    assert json.loads(orjson.dumps([found])) == [found]


class Question(Strict):
    file: Blob
    also: list[Blob] = []
    words: dict[str, int | None] = {}


OWN = Task("own", Question, Any)
CHECKS: list[tuple[InputCheck, Any]] = [
    (SchemaCheck(OWN.input_schema(), {"type": "object", "properties": {"a": {"type": "integer"}}}), {"file": "aGk="}),
    (SchemaCheck(Task("b", Blob, Any).input_schema(), None), "aGk="),
    *((TaskCheck(task), {"text": "a", "image": "aGk=", "audio": "aGk="}) for task in BUILT_IN.values()),
]


@fuzzed(st.integers(0, len(CHECKS) - 1), st.data(), st.dictionaries(st.sampled_from(["a", "partial"]), odd_values))
def test_inputs(number: int, data: st.DataObject, parameters: dict[str, Any]) -> None:
    check, valid = CHECKS[number]
    value = data.draw(changed([valid, [valid, valid], {"texts": ["a"]}]) | json_values)
    assume(not too_deep([value, parameters]))  # which read_json has seen to
    with contextlib.suppress(InvalidInput):
        assert check.items(check.check(value, parameters)) >= 0
