"""`/v2` on the wire (its real clients: tests/clients/test_oip.py)."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from api.tensors import Tensor, to_bytes
from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from shared.errors import Fault
from shared.payloads import attach
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings, until

MODELS = """
models:
  bert: {task: text-embedding, versions: {"1": {source: a}, "2": {source: b}}, traffic: {"1": 1}}
  cnn: {task: image-classification, versions: {"1": {source: "torchvision:x"}}, batch: {max_size: 4}}
  qa: {task: question-answering, versions: {"1": {source: a}}}
  org/echo: {task: echo, versions: {"1": {}}}
  own: {handler: "own.py:Own", versions: {"1": {}}}
"""
TEXT = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good", "b\u00e4d"]}
ROWS = [[0.25, -0.5, 1.0], [1.0, 0.0, 0.5]]


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, MODELS)) as running:
        yield running


async def call(api: Api, model: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await api.client.post(f"/v2/models/{model}/infer", content=content, headers=headers)


async def answered(api: Api, hands: Hands, model: str, body: Any, output: Any, **headers: str) -> tuple[Any, Any]:
    """The answer, and the input as it came to the worker."""
    asked = asyncio.create_task(call(api, model, body, **headers))
    done, _ = await asyncio.wait([asked, taking := asyncio.create_task(hands.take())], return_when="FIRST_COMPLETED")
    if asked in done:
        taking.cancel()
        raise AssertionError(asked.result().text)
    (job,) = taking.result()
    value = attach(job.kwargs["input"], job.payloads, await hands.payloads(job))
    await hands.finish(job, Outcome(State.SUCCEEDED, output=output))
    return await asked, {**job.kwargs, "input": value}


def binary(head: dict[str, Any], *parts: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return b"".join([text, *parts]), {"Inference-Header-Content-Length": str(len(text))}


async def test_texts_in_json(api: Api, hands: Hands) -> None:
    body = {"id": "42", "inputs": [TEXT], "model_name": "bert", "parameters": {"normalize": True}}
    answer, job = await answered(api, hands, "bert", body, [{"embedding": row} for row in ROWS])
    assert (job["input"], job["parameters"]) == ([{"text": "good"}, {"text": "b\u00e4d"}], {"normalize": True})
    told = answer.json()
    assert (told["id"], told["model_name"], told["model_version"]) == ("42", "bert", "1")
    flat = [number for row in ROWS for number in row]
    assert told["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [2, 3], "data": flat}]
    assert answer.headers["content-type"] == "application/json"


async def test_texts_in_bytes_and_compressed(api: Api, hands: Hands) -> None:
    raw = to_bytes(Tensor("text", "BYTES", (2,), ["h\u00e9".encode(), b"b"]))
    given = {**TEXT, "parameters": {"binary_data_size": len(raw)}}
    del given["data"]
    body, headers = binary({"inputs": [given], "parameters": {"binary_data_output": True}}, raw)
    for content, more in ((body, {}), (gzip.compress(body), {"Content-Encoding": "gzip"})):
        answer, job = await answered(
            api, hands, "bert/versions/2", content, [{"embedding": row} for row in ROWS], **headers, **more
        )
        assert (job["input"], job["version"]) == ([{"text": "h\u00e9"}, {"text": "b"}], "2")
        size = int(answer.headers["inference-header-content-length"])
        head = json.loads(answer.content[:size])
        assert head["outputs"][0]["parameters"] == {"binary_data_size": 24}
        assert np.frombuffer(answer.content[size:], "<f4").reshape(2, 3).tolist() == ROWS
        assert answer.headers["content-type"] == "application/octet-stream"


async def test_pictures_as_pixels_and_as_files(api: Api, hands: Hands) -> None:
    labels = [{"labels": [{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.1}]}] * 2
    pixels = np.arange(2 * 3 * 4 * 5, dtype="<f4").reshape(2, 3, 4, 5)
    given = {"name": "image", "shape": [2, 3, 4, 5], "datatype": "FP32"}
    sized = given | {"parameters": {"binary_data_size": pixels.nbytes}}
    body, headers = binary({"inputs": [sized], "parameters": {"top_k": 2}}, pixels.tobytes())
    answer, job = await answered(api, hands, "cnn", body, labels, **headers)
    for row, item in zip(pixels, job["input"], strict=True):
        assert np.array_equal(np.load(io.BytesIO(item["image"]), allow_pickle=False), row)
    outputs = {one["name"]: one for one in answer.json()["outputs"]}
    assert outputs["labels"] == {"name": "labels", "datatype": "BYTES", "shape": [2, 2], "data": ["cat", "dog"] * 2}
    assert outputs["scores"]["data"] == [0.9, 0.1] * 2
    assert job["parameters"] == {"top_k": 2}
    _, job = await answered(api, hands, "cnn", {"inputs": [given | {"data": pixels.tolist()}]}, labels)
    assert np.array_equal(np.load(io.BytesIO(job["input"][1]["image"])), pixels[1])
    raw = to_bytes(Tensor("image", "BYTES", (1,), [b"\xff\xd8file"]))
    file = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    body, headers = binary({"inputs": [file], "outputs": [{"name": "scores"}]}, raw)
    answer, job = await answered(api, hands, "cnn", body, labels[:1], **headers)
    assert job["input"] == [{"image": b"\xff\xd8file"}]
    assert [one["name"] for one in answer.json()["outputs"]] == ["scores"]


async def test_fields_by_their_names(api: Api, hands: Hands) -> None:
    body = {
        "inputs": [
            {"name": "question", "shape": [2], "datatype": "BYTES", "data": ["who?", "where?"]},
            {"name": "context", "shape": [2], "datatype": "BYTES", "data": ["me", "here"]},
        ]
    }
    output = [
        {"answer": "me", "score": 0.5, "start": 0, "end": 2},
        {"answer": "here", "score": 1.0, "start": 0, "end": 4},
    ]
    answer, job = await answered(api, hands, "qa", body, output)
    assert job["input"] == [{"question": "who?", "context": "me"}, {"question": "where?", "context": "here"}]
    kinds = {one["name"]: (one["datatype"], one["data"]) for one in answer.json()["outputs"]}
    assert kinds == {
        "answer": ("BYTES", ["me", "here"]),
        "score": ("FP32", [0.5, 1.0]),
        "start": ("INT64", [0, 0]),
        "end": ("INT64", [2, 4]),
    }


async def test_a_handler_of_ones_own_and_what_is_no_array(api: Api, hands: Hands) -> None:
    body = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    answer, job = await answered(api, hands, "own", body, [{"boxes": [1]}, {"boxes": [1, 2]}])
    assert job["input"] == [{"x": [1.0, 2.0]}, {"x": [3.0, 4.0]}]
    (told,) = answer.json()["outputs"]
    assert (told["name"], told["datatype"], told["data"]) == ("boxes", "BYTES", ["[1]", "[1,2]"])


async def test_a_model_that_splits_nothing(api: Api, hands: Hands) -> None:
    body = {"inputs": [{"name": "n", "shape": [2], "datatype": "INT32", "data": [1, 2]}]}
    answer, job = await answered(api, hands, "org/echo", body, {"n": [1, 2]})
    assert job["input"] == {"n": [1, 2]}
    assert answer.json()["outputs"] == [{"name": "n", "datatype": "INT64", "shape": [1, 2], "data": [1, 2]}]


async def test_priority_and_timeout(api: Api, hands: Hands) -> None:
    body = {"inputs": [TEXT], "parameters": {"priority": 1, "timeout": 300_000}}
    answer = await call(api, "bert", body)
    assert (answer.status_code, list(answer.json())) == (504, ["error"])
    job = (await api.client.get("/v1/jobs")).json()["data"][0]
    assert job["priority"] == "high"
    await until(lambda: hands.client.hget(f"{keys.JOB}{job['id']}", "finished_at"), "its deadline has ended it")


@pytest.mark.parametrize(
    ("model", "body", "status", "told"),
    [
        ("nope", {"inputs": [TEXT]}, 404, "nope"),
        ("bert/versions/9", {"inputs": [TEXT]}, 404, "9"),
        ("bert", {"inputs": []}, 400, "/inputs"),
        ("bert", b"{", 400, "JSON"),
        ("bert", {"inputs": [TEXT | {"shape": [3]}]}, 400, "/inputs/0"),
        ("bert", {"inputs": [TEXT | {"datatype": "BF16"}]}, 400, "BF16"),
        ("bert", {"inputs": [TEXT | {"name": "words"}]}, 400, "words"),
        ("bert", {"inputs": [TEXT, TEXT]}, 400, "one name"),
        ("bert", {"inputs": [TEXT | {"data": ["a", ""]}]}, 400, "text[1]"),
        ("bert", {"inputs": [TEXT | {"parameters": {"binary_data_size": 5}}]}, 400, "binary_data_size"),
        ("bert", {"inputs": [TEXT], "parameters": {"colour": 1}}, 400, "/parameters/colour"),
        ("bert", {"inputs": [TEXT], "parameters": {"timeout": -1}}, 400, "/parameters/timeout"),
        ("bert", {"inputs": [TEXT], "parameters": {"priority": "1"}}, 400, "/parameters/priority"),
        ("bert", {"inputs": [TEXT], "parameters": {"sequence_id": 7}}, 400, "sequences"),
        ("bert", {"inputs": [TEXT | {"shape": []}]}, 400, "/inputs/0"),
        (
            "cnn",
            {"inputs": [{"name": "image", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]},
            400,
            "3, height",
        ),
        (
            "own",
            {"inputs": [TEXT, {"name": "n", "shape": [1], "datatype": "INT8", "data": [1]}]},
            400,
            "first dimension",
        ),
    ],
)
async def test_what_is_wrong_is_told_in_text(api: Api, model: str, body: Any, status: int, told: str) -> None:
    answer = await call(api, model, body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert told in answer.json()["error"]
    assert answer.headers["content-type"] == "application/json"


async def test_headers_that_lie(api: Api) -> None:
    for given in ("x", "-1", "999999", "0"):
        answer = await call(api, "bert", {"inputs": [TEXT]}, **{"Inference-Header-Content-Length": given})
        assert answer.status_code == 400
    body, headers = binary({"inputs": [TEXT]}, b"more")
    assert "4 bytes" in (await call(api, "bert", body, **headers)).json()["error"]


async def test_no_such_output(api: Api, hands: Hands) -> None:
    body = {"inputs": [TEXT], "outputs": [{"name": "probs"}]}
    answer, _ = await answered(api, hands, "bert", body, [{"embedding": row} for row in ROWS])
    assert answer.status_code == 400
    assert "there are embedding" in answer.json()["error"]


async def test_what_the_worker_refuses(api: Api, hands: Hands) -> None:
    asked = asyncio.create_task(call(api, "bert", {"inputs": [TEXT]}))
    (job,) = await hands.take()
    faults = [Fault(pointer="/1/text", message="too long")]
    await hands.finish(job, Outcome(State.FAILED, code="invalid_input", message="too long", faults=faults))
    answer = await asked
    assert answer.status_code == 400
    assert "/inputs/0/data/1: text[1]: too long" in answer.json()["error"]


async def test_metadata(api: Api) -> None:
    get = api.client.get
    assert (await get("/v2/health/live")).json() == {"live": True}
    assert (await get("/v2/health/ready")).json() == {"ready": True, "live": True}
    assert "binary_tensor_data" in (await get("/v2")).json()["extensions"]
    told = (await get("/v2/models/bert")).json()
    assert (told["name"], told["versions"], told["platform"]) == ("bert", ["1", "2"], "pytorch_torch")
    assert told["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert told["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, -1]}]
    told = (await get("/v2/models/qa/versions/1")).json()
    assert [one["name"] for one in told["inputs"]] == ["question", "context"]
    assert {one["name"]: one["datatype"] for one in told["outputs"]}["score"] == "FP32"
    assert (await get("/v2/models/cnn/config")).json()["max_batch_size"] == 4
    told = await get("/v2/models/bert/ready")
    assert (told.status_code, list(told.json())) == (503, ["error"])
    assert (await get("/v2/models/nope")).status_code == 404
    assert (await get("/v2/models/org/echo")).json()["name"] == "org/echo"
    stats = (await get("/v2/models/stats")).json()["model_stats"]
    assert {one["name"] for one in stats} == {"bert", "cnn", "qa", "org/echo", "own"}
    assert len((await get("/v2/models/bert/stats")).json()["model_stats"]) == 2
    index = (await api.client.post("/v2/repository/index")).json()
    assert {(one["name"], one["state"]) for one in index} >= {("bert", "UNAVAILABLE")}
    assert (await api.client.post("/v2/repository/index", json={"ready": True})).json() == []
    assert (await api.client.post("/v2/repository/models/org/echo/unload")).status_code == 200
    assert "org/echo" in await api.parts.pauses.read()
    assert (await api.client.post("/v2/repository/models/org/echo/load")).status_code == 200
    assert not await api.parts.pauses.read()


async def test_keys(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    key = ApiKey(id="a", name="a", scopes=frozenset({Scope.SUBMIT, Scope.READ}), models=frozenset({"cnn"}))
    store.hset(keys.KEYS, digest("mls_a"), key.model_dump_json())
    async with serving(settings(redis_url, tmp_path, MODELS, auth="on")) as api:
        assert (await api.client.get("/v2/health/ready")).status_code == 200
        answer = await call(api, "bert", {"inputs": [TEXT]})
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
        own = {"Authorization": "Bearer mls_a"}
        assert (await call(api, "bert", {"inputs": [TEXT]}, **own)).status_code == 403
        assert (await api.client.get("/v2/models/bert", headers=own)).status_code == 403
        assert (await api.client.get("/v2/models/cnn", headers=own)).status_code == 200
        stats = (await api.client.get("/v2/models/stats", headers=own)).json()["model_stats"]
        assert [one["name"] for one in stats] == ["cnn"]
        assert (await api.client.post("/v2/repository/index", headers=own)).status_code == 403
