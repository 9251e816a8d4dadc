"""The webhook of a batch: told once, when its last line has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from shared import keys
from tests.api_stack import Api, Hands, serving, settings, until
from tests.receiver import Receiver

FAST = {"outbound_allow": "127.0.0.0/8", "webhook_schedule": "0.05", "webhook_timeout_s": 2}


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, **FAST)) as running:
        yield running


async def post(api: Api, webhook: Any, **more: Any) -> str:
    body = {"model": "echo", "inputs": [1, 2, 3], "webhook": webhook, **more}
    answer = await api.client.post("/v1/batches", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def settled(api: Api, batch_id: str, state: str) -> dict[str, Any]:
    """Its only delivery, of its end, when it is in this state."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        nonlocal found
        found = (await api.client.get(f"/v1/batches/{batch_id}/deliveries")).json()["data"]
        return [(one["event"], one["state"]) for one in found] == [("completed", state)]

    await until(there, f"its delivery is {state}")
    return found[0]


async def test_its_end_is_told_once_and_signed(api: Api, hands: Hands) -> None:
    with Receiver() as receiver:
        batch_id = await post(api, receiver.url)
        first, *rest = await hands.take(3)
        await hands.finish(first)
        assert receiver.got == []
        await hands.finish_all(rest)
        await until(lambda: receiver.got, "it is told")
        (message,) = receiver.got
        secret = (await api.client.get("/v1/webhooks/secret")).json()["secret"]
        assert message.verified(secret)["type"] == "batch.completed"
        assert message.id == f"msg_{batch_id}_completed"
        assert message.said["data"] == (await api.client.get(f"/v1/batches/{batch_id}")).json()
        await settled(api, batch_id, "delivered")
        again = await api.client.post(f"/v1/batches/{batch_id}/deliveries")
        assert again.status_code == 202
        await until(lambda: len(receiver.got) == 2, "it is told again")
        assert receiver.got[1].id == message.id


async def test_a_cancel_is_told_when_its_last_line_has_ended(api: Api, hands: Hands) -> None:
    with Receiver() as receiver:
        batch_id = await post(api, {"url": receiver.url, "events": ["canceled"]})
        taken = await hands.take(3)
        await api.client.delete(f"/v1/batches/{batch_id}")
        assert (await api.client.get(f"/v1/batches/{batch_id}/deliveries")).json()["data"] == []
        await hands.finish_all(taken)
        await until(lambda: receiver.got, "it is told")
        assert receiver.got[0].said["type"] == "batch.canceled"
        assert receiver.got[0].said["data"]["counts"]["canceled"] == 3


async def test_one_that_has_expired_is_given_up_and_not_tried_for_a_day(
    redis_url: str, tmp_path: Path, store: redis.Redis
) -> None:
    off, receiver_of_none = settings(redis_url, tmp_path, **FAST, webhook_delivery="off"), "http://127.0.0.1:9999/"
    async with serving(off) as api:
        hands = Hands.on(off)
        batch_id = await post(api, receiver_of_none)
        await hands.finish_all(await hands.take(3))
        await hands.client.aclose()
    store.delete(keys.BATCH + batch_id)
    async with serving(settings(redis_url, tmp_path, **FAST)) as api:
        failed = await settled(api, batch_id, "failed")
        assert [attempt["error"] for attempt in failed["attempts"]] == [
            "the batch had expired before its webhook could be sent"
        ]
        answer = await api.client.post(f"/v1/batches/{batch_id}/deliveries")
        assert (answer.status_code, answer.json()["code"]) == (409, "cannot_redeliver")


async def test_json_lines_name_it_in_the_query(api: Api, hands: Hands) -> None:
    with Receiver() as receiver:
        for webhook in (receiver.url, orjson.dumps({"url": receiver.url, "events": ["completed"]}).decode()):
            answer = await api.client.post(
                "/v1/batches",
                params={"model": "echo", "webhook": webhook},
                content=b"1\n",
                headers={"Content-Type": "application/x-ndjson"},
            )
            assert answer.status_code == 202, answer.text
            await hands.finish_all(await hands.take(1))
        await until(lambda: len(receiver.got) == 2, "both are told")


@pytest.mark.parametrize(
    ("webhook", "pointer"),
    [
        ("http://10.0.0.1/x", "/webhook"),
        ({"url": "http://10.0.0.1/x"}, "/webhook/url"),
        ({"url": "http://127.0.0.1/x", "events": ["succeeded"]}, "/webhook/events/0"),
    ],
)
async def test_what_is_refused_names_the_field(api: Api, webhook: Any, pointer: str) -> None:
    answer = await api.client.post("/v1/batches", json={"model": "echo", "inputs": [1], "webhook": webhook})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
