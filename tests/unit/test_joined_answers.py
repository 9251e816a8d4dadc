"""The head of an answer and its body leave together, and a head alone does not wait."""

from __future__ import annotations

import asyncio
from typing import Any

from api.protocol import _COPIED, _Joined


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.writes.append(b"closed")


def _made() -> tuple[_Transport, _Joined]:
    transport = _Transport()
    return transport, _Joined(transport, asyncio.get_running_loop())


async def _turn() -> None:
    await asyncio.sleep(0)


async def test_head_and_body_are_one_write() -> None:
    transport, joined = _made()
    joined.write(b"head ")
    joined.write(b"body")
    await _turn()
    assert transport.writes == [b"head body"]


async def test_a_large_body_is_not_copied() -> None:
    transport, joined = _made()
    body = bytes(_COPIED)
    joined.write(b"head")
    joined.write(body)
    await _turn()
    assert transport.writes == [b"head", body]


async def test_the_head_of_a_stream_goes_before_its_first_piece() -> None:
    transport, joined = _made()
    joined.write(b"head")
    assert transport.writes == []
    await _turn()
    assert transport.writes == [b"head"]
    joined.write(b"one")
    joined.write(b"two")
    await _turn()
    assert transport.writes == [b"head", b"one", b"two"]


async def test_an_empty_body_and_a_close() -> None:
    transport, joined = _made()
    joined.write(b"head")
    joined.write(b"")
    joined.close()
    await _turn()
    assert transport.writes == [b"head", b"closed"]


async def test_a_close_after_a_head_alone() -> None:
    transport, joined = _made()
    joined.write(b"head")
    joined.close()
    await _turn()
    assert transport.writes == [b"head", b"closed"]
