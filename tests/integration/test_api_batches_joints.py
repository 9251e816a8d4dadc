"""Batches and what else there is: files and URLs in lines, the payload store, purge."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from shared import keys, messages
from shared.types import Outcome, State
from tests.api_stack import MODELS, Api, Hands, serving, settings, until
from tests.batches import lines, post_lines, results
from tests.integration.test_api_files import gone, parts_of, upload
from tests.payload_places import Place

ROOMY = MODELS + '  big: {task: image-classification, versions: {"1": {}}, limits: {input_bytes: 100000000}}\n'
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


@pytest.fixture
async def api(place: Place, redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, models=ROOMY, batch_window=4, **place.settings)) as running:
        yield running


async def test_lines_name_files(api: Api, hands: Hands, place: Place) -> None:
    """The same file in many lines; it stays while a line needs it, though it was deleted meanwhile."""
    file = await upload(api, PNG)
    inputs: list[Any] = [{"image": {"$file": file["id"]}} for _ in range(10)]
    inputs[3] = {"image": {"$file": "file_" + "0" * 32}}
    inputs[4] = {"images": [{"$file": file["id"]}, base64.b64encode(PNG).decode()]}
    inputs[5] = {"image": {"$url": "https://example.org/x.png"}}
    inputs[6] = {"image": base64.b64encode(b"\x89PNG small").decode()}
    batch = (await post_lines(api, lines(*inputs), model="cnn")).json()
    assert (batch["counts"]["queued"], batch["counts"]["failed"]) == (8, 2)
    assert (await api.client.delete(f"/v1/files/{file['id']}")).status_code == 204
    taken = []
    while len(taken) < 8:
        some = await hands.take(1)
        for one in some:
            parts = await parts_of(place, hands, one)
            number = int(one.job_id.rpartition("-")[2])
            expected = {4: [PNG, PNG], 6: [b"\x89PNG small"]}.get(number, [PNG])
            assert parts == expected, number
        await hands.finish_all(some, Outcome(State.SUCCEEDED, output=1))
        taken += some
    told = await results(api, batch["id"])
    assert [line["state"] for line in told] == ["succeeded"] * 3 + ["failed", "succeeded", "failed"] + ["succeeded"] * 4
    assert told[3]["error"]["errors"][0]["pointer"] == "/image"
    assert "ML_INPUT_URLS" in told[5]["error"]["errors"][0]["message"]
    await gone(place)


async def test_what_a_canceled_batch_had_stored_goes(api: Api, place: Place, store: redis.Redis) -> None:
    file = await upload(api, PNG)
    large = base64.b64encode(PNG).decode()
    inputs = [{"image": large}, {"image": {"$file": file["id"]}}] * 10
    batch = (await post_lines(api, lines(*inputs), model="cnn")).json()
    assert batch["counts"]["queued"] == 20
    assert (await api.client.delete(f"/v1/batches/{batch['id']}")).json()["counts"]["canceled"] == 20
    assert (await api.client.get(f"/v1/files/{file['id']}/content")).content == PNG, "the file is its owner's"
    assert (await api.client.delete(f"/v1/files/{file['id']}")).status_code == 204
    await gone(place)
    await until(lambda: not list(store.scan_iter(f"{keys.PAYLOAD}*")), "nor in Redis")


async def test_what_breaks_off_leaves_nothing_in_the_store(api: Api, place: Place, store: redis.Redis) -> None:
    file = await upload(api, PNG)
    inputs = [{"image": base64.b64encode(PNG).decode()}, {"image": {"$file": file["id"]}}] * 30

    async def slowly() -> AsyncIterator[bytes]:
        yield lines(*inputs)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await post_lines(api, slowly(), model="cnn")
    assert (await api.client.delete(f"/v1/files/{file['id']}")).status_code == 204
    await gone(place)
    await until(lambda: not list(store.scan_iter(f"{keys.PAYLOAD}*")), "nor in Redis")


async def test_an_output_in_the_store_lives_as_long_as_the_batch(api: Api, hands: Hands, place: Place) -> None:
    from shared import scripts
    from shared.outcomes import encode_outcome
    from shared.payload_place import PayloadRef
    from shared.payload_store import JSON_TYPE
    from shared.scripts_payloads import stash

    batch = (await post_lines(api, lines(1, 2), model="echo", result_ttl_s="5000")).json()
    first, second = await hands.take(2)
    ref = PayloadRef.new(api.parts.payloads.store.kind)
    await hands.call(stash([ref], 60))
    await api.parts.payloads.put(ref, 0, b'{"large":true}', JSON_TYPE)
    outcome = Outcome(State.SUCCEEDED, stored=str(ref), stored_bytes=14)
    meta = encode_outcome(first.job_id, outcome)
    call = scripts.finish(
        first.job_id, tag=first.job_id, state=State.SUCCEEDED, code="", meta=meta, ttl_ms=1000, stored=str(ref)
    )
    await hands.call(call)
    await hands.finish(second)
    told = await results(api, batch["id"])
    assert [line["output"] for line in told] == [{"large": True}, 2]
    output = await api.client.get(f"/v1/jobs/{first.job_id}/output")
    assert output.json() == {"large": True}
    kept_ms = int(place.store.zscore(keys.STORED, str(ref)) or 0)
    expires = int(place.store.hget(keys.BATCH + batch["id"], "expires_at") or 0)
    assert kept_ms == expires, "as long as the batch"
    place.store.zadd(keys.STORED, {str(ref): 1})


async def test_a_newer_message_only_where_it_must_be(api: Api, place: Place) -> None:
    """Workers of the last release know nothing of the payload store: they get what does not need it."""
    file = await upload(api, PNG)
    await post_lines(api, lines({"image": {"$file": file["id"]}}, {"image": "iVBORw0KGgo="}), model="cnn")
    name = keys.queue_list(keys.queue_name("cnn", "1"), keys.LOW)
    waiting = [orjson.loads(raw) for raw in place.store.lrange(name, 0, -1)]
    assert [one["headers"]["ml"] for one in waiting[::-1]] == [messages.VERSION, messages.PLAIN]
    assert ["ml_stored" in one["headers"] for one in waiting[::-1]] == [True, False]
    for one in waiting:
        messages.Envelope.of(one["headers"], messages.unpack(orjson.dumps(one))[1])
    assert (await api.client.post("/v1/models/cnn/purge")).status_code == 200
    await api.client.delete(f"/v1/files/{file['id']}")


async def test_purge_takes_the_lines_that_have_not_begun_along(redis_url: str, tmp_path: Path) -> None:
    async with serving(asked := settings(redis_url, tmp_path, batch_window=10)) as api:
        hands = Hands.on(asked)
        batch = (await api.client.post("/v1/batches", json={"model": "echo", "inputs": list(range(500))})).json()
        other = (await api.client.post("/v1/batches", json={"model": "bert", "inputs": [{"text": "a"}]})).json()
        taken = await hands.take(4)
        purged = (await api.client.post("/v1/models/echo/purge")).json()
        assert purged == {"canceled": 500 - len([one for one in taken if one.kwargs["model"] == "echo"])}
        await hands.finish_all(taken)
        told = (await api.client.get(f"/v1/batches/{batch['id']}?wait=5")).json()
        assert (told["state"], told["counts"]["queued"]) == ("canceled", 0)
        left = (await api.client.get(f"/v1/batches/{other['id']}")).json()
        assert left["counts"]["canceled"] == 0
        await hands.client.aclose()
