"""`/v1/batches` on a real server: accept, read, run, results, cancel, refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis

from shared import keys
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings, until


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, max_wait_s=5, max_body_bytes=200_000, batch_window=10)) as running:
        yield running


def lines(*inputs: Any) -> bytes:
    return b"".join(orjson.dumps(one) + b"\n" for one in inputs)


async def post_lines(api: Api, content: Any, **query: str) -> httpx.Response:
    return await api.client.post(
        "/v1/batches", params=query, content=content, headers={"content-type": "application/x-ndjson"}
    )


async def work(hands: Hands, lines: int) -> None:
    """So many lines, as they begin."""
    for _ in range(lines):
        await hands.finish_all(await hands.take())


async def results(api: Api, batch_id: str, **query: Any) -> list[dict[str, Any]]:
    answer = await api.client.get(f"/v1/batches/{batch_id}/results", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [orjson.loads(line) for line in answer.content.splitlines()]


async def test_a_list_is_accepted_run_and_read(api: Api, hands: Hands) -> None:
    body = {"model": "echo", "inputs": [{"n": n} for n in range(25)], "labels": {"k": "v"}}
    answer = await api.client.post("/v1/batches", json=body)
    batch = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/batches/{batch['id']}")
    assert (batch["model"], batch["version"], batch["state"], batch["labels"]) == ("echo", "1", "queued", {"k": "v"})
    assert batch["priority"] == "low"
    counts = {"total": 25, "queued": 25, "running": 0, "succeeded": 0, "failed": 0, "canceled": 0}
    assert batch["counts"] == counts
    assert (batch["rate"], batch["eta_s"], batch["started_at"]) == (None, None, None)
    assert batch["created_at"] < batch["deadline_at"] < batch["expires_at"]
    taken = await hands.take(10)
    assert [one.kwargs["input"]["n"] for one in taken] == list(range(10)), "the window"
    running = (await api.client.get(f"/v1/batches/{batch['id']}")).json()
    assert (running["state"], running["counts"]["running"], running["counts"]["queued"]) == ("running", 10, 15)
    await hands.finish(taken[0], Outcome(State.FAILED, code="predict_error", message="no"))
    await hands.finish_all(taken[2:])
    assert [line["index"] for line in await results(api, batch["id"])] == [0], "up to the first that has not ended"
    await hands.finish(taken[1])
    await work(hands, 15)
    done = (await api.client.get(f"/v1/batches/{batch['id']}?wait=5")).json()
    assert done["state"] == "completed"
    assert done["counts"] == counts | {"queued": 0, "succeeded": 24, "failed": 1}
    assert done["started_at"] <= done["finished_at"]
    told = await results(api, batch["id"])
    assert [line["index"] for line in told] == list(range(25))
    assert told[0] == {"index": 0, "state": "failed", "error": {"code": "predict_error", "message": "no"}}
    assert all(line["output"] == {"n": line["index"]} for line in told[1:])
    assert await results(api, batch["id"], start=23) == told[23:]


async def test_a_line_is_a_job(api: Api, hands: Hands) -> None:
    batch = (await api.client.post("/v1/batches", json={"model": "echo", "inputs": list(range(12))})).json()
    first, late = (keys.line_id(batch["id"], n) for n in (0, 11))
    assert (await api.client.get(f"/v1/jobs/{first}")).json()["state"] == "queued"
    waiting = (await api.client.get(f"/v1/jobs/{late}")).json()
    assert (waiting["state"], waiting["model"], waiting["deadline_at"]) == ("queued", "echo", batch["deadline_at"])
    assert (await api.client.get(f"/v1/jobs/{keys.line_id(batch['id'], 12)}")).status_code == 404
    taken = await hands.take(10)
    await hands.finish_all(taken)
    assert (await api.client.get(f"/v1/jobs/{first}")).json()["output"] == 0
    await work(hands, 2)
    assert (await api.client.get(f"/v1/jobs/{late}?wait=5")).json()["output"] == 11
