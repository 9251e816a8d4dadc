"""Names from callers: traversal, null bytes, endless and look-alike names in every route get a clean 4xx."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest
import redis

from tests.api_stack import Api, Hands, serving, settings

PNG = b"\x89PNG not looked into here"
NAMES = [
    "../../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "..",
    "../",
    "./echo",
    "echo/../echo",
    "echo/..",
    "/echo",
    "//echo",
    "/etc/passwd",
    "C:\\Windows\\win.ini",
    "..\\..\\echo",
    "file:///etc/passwd",
    "http://127.0.0.1:1/",
    "echo\0",
    "echo\0.py",
    "echo\n",
    "echo\r\nX-Injected: 1",
    "echo ",
    " echo",
    "ECHO",
    "еcho",  # a Cyrillic e
    "ecｈo",  # a full-width h
    "e\u200bcho",
    "e\u0301cho",
    "\u202eohce",
    "\ud7ff",
    "💣" * 100,
    "a" * 100_000,
    "a/" * 4_000,
    "echo@",
    "@1",
    "echo@1@1",
    "echo@../1",
    "echo@" + "9" * 100_000,
    "*",
    "?",
    "%",
    "%00",
    "%c0%ae%c0%ae/",
    "{{7*7}}",
    "'; DROP TABLE jobs; --",
    "ml:job:*",
    "__proto__",
]


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, max_body_bytes=2_000_000)) as running:
        yield running


async def ask(port: int, method: str, target: str, body: bytes = b"", *headers: str) -> tuple[int, bytes, bytes]:
    """As it stands, without a client that tidies the path. Status, head and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}"]
    writer.write("\r\n".join([*head, *headers, "", ""]).encode("latin-1") + body)
    answer, _, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer, content


def written(name: str) -> list[str]:
    """A name in a path: percent-encoded, and as bare as HTTP lets it be."""
    bare = "".join(
        one if one.isascii() and one.isprintable() and one not in ' ?#"<>`{}|^\\' else quote(one) for one in name
    )
    return [quote(name, safe=""), bare]


def expect_refusal(status: int, head: bytes, content: bytes, name: str) -> None:
    assert 400 <= status < 500, (name[:80], status, content[:300])
    assert b"x-injected" not in head.lower(), name
    told = json.loads(content)
    code = told["code"] if "code" in told else told["error"]["code"]
    assert code, name
    assert "Traceback" not in content.decode()
    assert "root:" not in content.decode()
    assert len(content) < 3000 + 4 * len(name), name


@pytest.mark.parametrize(
    ("method", "route", "body"),
    [
        ("GET", "/v1/models/{}", None),
        ("GET", "/v1/jobs/{}", None),
        ("GET", "/v1/jobs/{}?wait=1", None),
        ("DELETE", "/v1/jobs/{}", None),
        ("GET", "/v1/dead/{}", None),
        ("POST", "/v1/dead/{}/retry", None),
        ("DELETE", "/v1/dead/{}", None),
        ("PUT", "/v1/models/echo/versions/{}", {}),
        ("DELETE", "/v1/models/echo/versions/{}", None),
        ("PUT", "/v1/models/{}/traffic", {"traffic": {"1": 1}}),
        ("POST", "/v1/models/{}/rollback", None),
        ("DELETE", "/v1/models/{}", None),
        ("GET", "/readyz?model={}", None),
        ("GET", "/{}", None),
    ],
)
async def test_in_a_path(api: Api, method: str, route: str, body: object) -> None:
    for name, number in itertools.product(NAMES, (0, 1)):
        if "versions" in route and name == "ECHO":
            continue  # a name that a version may have
        target = route.format(written(name)[number])
        status, head, content = await ask(api.port, method, target, orjson.dumps(body) if body is not None else b"")
        expect_refusal(status, head, content, name)
    assert (await api.client.get("/livez")).status_code == 200


async def test_as_a_new_models_name(api: Api) -> None:
    for name in NAMES:
        for target in written(name):
            status, head, content = await ask(
                api.port, "PUT", f"/v1/models/{target}", b'{"task": "echo", "versions": {"1": {}}}'
            )
            if name == "ECHO":
                assert status in (200, 202), "the one that a model may have"
            else:
                expect_refusal(status, head, content, name)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/jobs", {"model": "{}", "input": 1}),
        ("/v1/jobs", {"model": "echo", "version": "{}", "input": 1}),
        ("/inference", {"model_type": "{}", "data": 1}),
        ("/inference", {"model_type": "echo", "version": "{}", "data": 1}),
        ("/v1/jobs", {"model": "echo", "input": 1, "priority": "{}"}),
        ("/v1/jobs", {"model": "echo", "input": 1, "{}": 1}),
        ("/v1/jobs", {"model": "bert", "input": {"{}": 1}}),
    ],
)
async def test_in_a_body(api: Api, path: str, body: dict[str, object]) -> None:
    for name in NAMES:
        text = orjson.dumps(body).replace(b"{}", orjson.dumps(name)[1:-1])
        status, head, content = await ask(api.port, "POST", path, text, "Content-Type: application/json")
        expect_refusal(status, head, content, name)


async def test_file_names_of_multipart_lead_nowhere(api: Api, hands: Hands, tmp_path: Path) -> None:
    before = sorted(Path.cwd().iterdir())
    for name in NAMES:
        shown = name.encode("utf-8", "replace").replace(b"\r\n", b"%0d%0a").replace(b"\n", b"%0a")[:3000]
        part = b'Content-Disposition: form-data; name="image"; filename="' + shown + b'"\r\n\r\n' + PNG
        text = b'Content-Disposition: form-data; name="model"\r\n\r\ncnn'
        body = b"--b\r\n" + text + b"\r\n--b\r\n" + part + b"\r\n--b--\r\n"
        status, head, content = await ask(
            api.port, "POST", "/v1/jobs", body, "Content-Type: multipart/form-data; boundary=b"
        )
        if status != 202:
            expect_refusal(status, head, content, name)
    assert sorted(Path.cwd().iterdir()) == before


async def test_field_names_of_multipart_are_fields(api: Api) -> None:
    for name in NAMES:
        shown = name.encode("utf-8", "replace").replace(b"\r\n", b"%0d%0a").replace(b"\n", b"%0a")[:3000]
        part = b'Content-Disposition: form-data; name="' + shown + b'"; filename="a"\r\n\r\n' + PNG
        text = b'Content-Disposition: form-data; name="model"\r\n\r\ncnn'
        body = b"--b\r\n" + text + b"\r\n--b\r\n" + part + b"\r\n--b--\r\n"
        answer = await ask(api.port, "POST", "/v1/jobs", body, "Content-Type: multipart/form-data; boundary=b")
        expect_refusal(*answer, name)


async def test_in_headers(api: Api, store: redis.Redis) -> None:
    job = b'{"model":"echo","input":1}'
    for name in NAMES:
        value = (
            name.encode("utf-8", "replace").decode("latin-1").replace("\0", "").replace("\r\n", "").replace("\n", "")
        )
        for header in ("Idempotency-Key", "Prefer", "X-Request-ID", "Content-Type", "Accept", "Content-Encoding"):
            status, head, content = await ask(api.port, "POST", "/v1/jobs", job, f"{header}: {value[:20_000]}")
            assert b"x-injected" not in head.lower()
            if status != 202:
                expect_refusal(status, head, content, name)
