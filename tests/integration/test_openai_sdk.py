"""OpenAI's own SDK in this process, without a socket: as a backend's tests would use it on our app. (Over HTTP, the
newest and an old one: tests/clients.)"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from starlette.types import Receive, Scope, Send

from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings, until

MODELS = """
models:
  bert: {task: text-embedding, versions: {"1": {source: a}}, limits: {queue: 2}}
"""
ROW = [0.25, -0.5, 1.0]


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, MODELS)) as running:
        yield running


class Asked:
    """The app, and the headers of each request to it."""

    def __init__(self, api: Api) -> None:
        self._app = api.app
        self.headers: list[dict[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers.append(dict(scope["headers"]))
        await self._app(scope, receive, send)


@pytest.fixture
def asked(api: Api) -> Asked:
    return Asked(api)


@pytest.fixture
async def client(asked: Asked) -> AsyncIterator[openai.AsyncOpenAI]:
    transport: Any = httpx2.ASGITransport(app=asked)
    async with httpx2.AsyncClient(transport=transport) as http:
        yield openai.AsyncOpenAI(base_url="http://t/v1", api_key="k", http_client=http)


async def serve(hands: Hands, jobs: int) -> None:
    for job in await hands.take(jobs):
        await hands.finish(job, Outcome(State.SUCCEEDED, output={"embedding": ROW}, tokens=2))


async def test_embeddings(client: openai.AsyncOpenAI, hands: Hands) -> None:
    call = asyncio.create_task(client.embeddings.create(model="bert", input="hi"))
    await serve(hands, 1)
    answer = await call
    assert (answer.data[0].embedding, answer.usage.prompt_tokens) == (ROW, 2)
    assert [model.id async for model in client.models.list()] == ["bert"]


async def test_it_comes_again_when_it_is_told_to(
    client: openai.AsyncOpenAI, asked: Asked, api: Api, hands: Hands
) -> None:
    """The queue is full at first: 503 with Retry-After, which the SDK keeps to."""
    for _ in range(2):
        await api.client.post("/v1/jobs", json={"model": "bert", "input": {"text": "before"}})
    call = asyncio.create_task(client.with_options(max_retries=1).embeddings.create(model="bert", input="hi"))
    await until(lambda: len(asked.headers) == 1, "the first try")
    await serve(hands, 2)
    await serve(hands, 1)
    assert (await call).data[0].embedding == ROW
    counts = [headers[b"x-stainless-retry-count"] for headers in asked.headers]
    assert counts == [b"0", b"1"]


async def test_and_gives_up_where_it_has_come_often_enough(client: openai.AsyncOpenAI, asked: Asked, api: Api) -> None:
    for _ in range(2):
        await api.client.post("/v1/jobs", json={"model": "bert", "input": {"text": "before"}})
    with pytest.raises(openai.InternalServerError) as refused:
        await client.with_options(max_retries=0).embeddings.create(model="bert", input="hi")
    assert (refused.value.status_code, refused.value.code) == (503, "queue_full")
    assert len(asked.headers) == 1
