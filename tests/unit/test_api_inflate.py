"""Compressed bodies: what comes out, in which steps, and that a caller who goes is seen."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.inflate import _STEP, Inflate
from shared.errors import BadRequest, TooLarge

MOST = 2_000_000


def squeeze(data: bytes, kind: str) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, {"gzip": 31, "deflate": 15, "bare": -15}[kind])
    return stream.compress(data) + stream.flush()


async def through(pieces: list[bytes], encoding: str = "gzip", *, gone: bool = False) -> tuple[list[bytes], list[Any]]:
    """The pieces of the body as an app reads them, and what it receives after the end."""
    messages: list[Any] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if not gone:
        messages[-1]["more_body"] = False
    messages.append({"type": "http.disconnect"})
    read: list[bytes] = []
    after: list[Any] = []
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert not [name for name, _ in scope["headers"] if name in (b"content-encoding", b"content-length")]
        while (message := await receive())["type"] == "http.request":
            read.append(message["body"])
            if not message["more_body"]:
                message = await receive()
                break
        after.append(message)

    headers = [(b"content-encoding", encoding.encode()), (b"content-length", b"1"), (b"host", b"x")]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    await Inflate(app, most=lambda _: MOST)(scope, receive, send)
    return read, after or sent


@given(
    st.binary(max_size=5000),
    st.integers(1, 400),
    st.sampled_from(["gzip", "deflate", "bare"]),
    st.integers(1, 700),
)
async def test_it_comes_out_as_it_went_in(data: bytes, times: int, kind: str, piece: int) -> None:
    data *= times
    packed = squeeze(data, kind)
    pieces = [packed[at : at + piece] for at in range(0, len(packed), piece)]
    read, after = await through(pieces, "gzip" if kind == "gzip" else "deflate")
    assert b"".join(read) == data
    assert max(map(len, read)) <= _STEP
    assert after == [{"type": "http.disconnect"}]


@pytest.mark.parametrize("size", [0, 1, _STEP - 1, _STEP, _STEP + 1, 2 * _STEP, MOST])
async def test_sizes_at_the_edges(size: int) -> None:
    read, _ = await through([gzip.compress(bytes(size), mtime=0), b""])
    assert b"".join(read) == bytes(size)


async def test_no_body_is_no_body() -> None:
    assert await through([b""]) == ([b""], [{"type": "http.disconnect"}])


async def test_a_caller_who_goes_in_mid_body_is_seen() -> None:
    _, after = await through([gzip.compress(b"x" * 100, mtime=0)[:40]], gone=True)
    assert after == [{"type": "http.disconnect"}]


@pytest.mark.parametrize("kind", ["gzip", "deflate", "bare"])
async def test_a_bomb_is_inflated_no_further_than_the_cap(kind: str) -> None:
    packed = squeeze(bytes(60_000_000), kind)
    with pytest.raises(TooLarge, match="2000000 bytes, inflated"):
        await through([packed], "gzip" if kind == "gzip" else "deflate")


@pytest.mark.parametrize(
    ("body", "encoding", "told"),
    [
        (gzip.compress(b"abc" * 99, mtime=0)[:-9], "gzip", "ends too early"),
        (gzip.compress(b"abc" * 99, mtime=0)[:5], "gzip", "ends too early"),
        (zlib.compress(b"abc" * 99)[:-1], "deflate", "ends too early"),
        (b"plain", "gzip", "no gzip data"),
        (b"\xff\xff\xff", "deflate", "no deflate data"),
        (gzip.compress(b"abc", mtime=0)[:-4] + b"\0\0\0\1", "gzip", "no gzip data"),
        (gzip.compress(b"abc", mtime=0) + b"x", "gzip", "follows the end"),
        (gzip.compress(b"abc", mtime=0) + gzip.compress(b"abc", mtime=0), "gzip", "follows the end"),
    ],
)
async def test_broken_data_is_told(body: bytes, encoding: str, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        await through([body], encoding)
    with pytest.raises(BadRequest, match=told):
        await through([bytes([one]) for one in body] + [b""], encoding)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip,deflate", "x" * 5000])
async def test_other_encodings_are_415_and_told_what_is_read(encoding: str) -> None:
    read, (start, body) = await through([b"x"], encoding)
    assert (read, start["status"], orjson.loads(body["body"])["code"]) == ([], 415, "unsupported_media_type")
    assert (b"accept-encoding", b"gzip, deflate, identity") in start["headers"]


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", " gzip "])
async def test_names_of_gzip(encoding: str) -> None:
    assert (await through([gzip.compress(b"abc", mtime=0)], encoding))[0] == [b"abc"]
