"""Run by the Python that has KServe's client: asks the service at argv[1] with the key argv[2], and prints what it got
as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

URL, KEY = sys.argv[1], {"Authorization": f"Bearer {sys.argv[2]}"}


async def ask() -> dict[str, Any]:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    found: dict[str, Any] = {
        "live": [await client.is_server_live(URL), await client.is_server_ready(URL)],
        "model": await client.is_model_ready(URL, "bert", headers=KEY),
    }
    tensor = InferInput("text", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([b"a", b"b"], dtype=object), binary_data=False)
    answer = await client.infer(URL, InferRequest("bert", [tensor]), model_name="bert", headers=KEY)
    (output,) = answer.outputs
    found["embedding"] = [answer.model_name, output.name, list(output.as_numpy().shape)]
    try:
        await client.infer(URL, InferRequest("nope", [tensor]), model_name="nope", headers=KEY)
    except Exception as error:
        found["no_model"] = str(error)
    return found


sys.stdout.write(json.dumps(asyncio.run(ask())))
