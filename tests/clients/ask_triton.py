"""Run by the Python that has tritonclient: asks the service at argv[1] with the key argv[2] and the picture argv[3],
and prints what it got as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

PLACE, PICTURE = sys.argv[1].removeprefix("http://"), Path(sys.argv[3]).read_bytes()
KEY = {"Authorization": f"Bearer {sys.argv[2]}"}  # a copy for each call: the client writes into what it is given
found: dict[str, Any] = {}


def texts(of: Any, *words: str, binary: bool = True) -> Any:
    """The input `text`."""
    tensor = of.InferInput("text", [len(words)], "BYTES")
    tensor.set_data_from_numpy(np.array([word.encode() for word in words], dtype=object), binary_data=binary)
    return tensor


with triton.InferenceServerClient(PLACE) as client:
    found["live"] = [
        client.is_server_live(),
        client.is_server_ready(),
        client.is_model_ready("bert", "1", headers=dict(KEY)),
    ]
    found["server"] = client.get_server_metadata(headers=dict(KEY))["name"]
    found["inputs"] = client.get_model_metadata("bert", headers=dict(KEY))["inputs"]
    found["max_batch_size"] = client.get_model_config("bert", headers=dict(KEY))["max_batch_size"]
    found["statistics"] = len(client.get_inference_statistics("bert", headers=dict(KEY))["model_stats"])
    found["index"] = sorted(one["name"] for one in client.get_model_repository_index(headers=dict(KEY)))
    client.unload_model("bert", headers=dict(KEY))
    found["unloaded"] = client.is_model_ready("bert", headers=dict(KEY))
    client.load_model("bert", headers=dict(KEY))
    found["loaded"] = client.is_model_ready("bert", headers=dict(KEY))

    answer = client.infer("bert", [texts(triton, "a", "b")], request_id="42", headers=dict(KEY))
    first = answer.as_numpy("embedding")
    found["embedding"] = [answer.get_response()["id"], list(first.shape), str(first.dtype)]
    plain = client.infer(
        "bert",
        [texts(triton, "a", "b", binary=False)],
        outputs=[triton.InferRequestedOutput("embedding", binary_data=False)],
        headers=dict(KEY),
        timeout=5_000_000,
        priority=1,
        parameters={"normalize": True},
    )
    found["json_is_binary"] = bool(np.allclose(plain.as_numpy("embedding"), first, atol=1e-6))
    pressed = client.infer("bert", [texts(triton, "a", "b")], headers=dict(KEY), request_compression_algorithm="gzip")
    found["compressed"] = bool(np.array_equal(pressed.as_numpy("embedding"), first))
    later = client.async_infer("bert", [texts(triton, "a", "b")], headers=dict(KEY))
    found["async_infer"] = bool(np.array_equal(later.get_result().as_numpy("embedding"), first))

    file = triton.InferInput("image", [1], "BYTES")
    file.set_data_from_numpy(np.array([PICTURE], dtype=object))
    labels = client.infer("cnn", [file], headers=dict(KEY), parameters={"top_k": 3})
    found["file"] = [list(labels.as_numpy("labels").shape), str(labels.as_numpy("scores").dtype)]
    pixels = triton.InferInput("image", [2, 3, 224, 224], "FP32")
    pixels.set_data_from_numpy(np.zeros((2, 3, 224, 224), dtype=np.float32))
    rows = client.infer("cnn", [pixels], headers=dict(KEY)).as_numpy("labels")
    found["pixels"] = [len(rows), rows[0].tolist() == rows[1].tolist()]
    for name, call in {
        "no_model": lambda: client.infer("nope", [texts(triton, "a")], headers=dict(KEY)),
        "no_key": lambda: client.infer("bert", [texts(triton, "a")]),
        "empty": lambda: client.infer("bert", [texts(triton, "")], headers=dict(KEY)),
    }.items():
        try:
            call()
        except InferenceServerException as error:
            found[name] = [error.status(), error.message()]


async def by_aio() -> bool:
    async with triton_aio.InferenceServerClient(PLACE) as client:
        answer = await client.infer("bert", [texts(triton_aio, "a", "b", binary=False)], headers=dict(KEY))
        return bool(np.allclose(answer.as_numpy("embedding"), first, atol=1e-6))


found["aio"] = asyncio.run(by_aio())
sys.stdout.write(json.dumps(found))
