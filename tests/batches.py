"""For tests of batches over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import redis

from tests.api_stack import Api, Hands, until


def lines(*inputs: Any) -> bytes:
    return b"".join(orjson.dumps(one) + b"\n" for one in inputs)


async def post_lines(api: Api, content: Any, **query: str) -> httpx.Response:
    headers = {"content-type": "application/x-ndjson"}
    return await api.client.post("/v1/batches", params=query, content=content, headers=headers, timeout=100)


async def work(hands: Hands, lines: int) -> None:
    """So many lines, as they begin."""
    for _ in range(lines):
        await hands.finish_all(await hands.take())


async def results(api: Api, batch_id: str, **query: Any) -> list[dict[str, Any]]:
    answer = await api.client.get(f"/v1/batches/{batch_id}/results", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [orjson.loads(line) for line in answer.content.splitlines()]


async def nothing_is_left(store: redis.Redis) -> None:
    def left() -> list[bytes]:
        return [key for key in store.scan_iter() if key.startswith((b"ml:up", b"ml:lines", b"ml:batch", b"ml:in"))]

    await until(lambda: left() == [], "nothing is left behind")
