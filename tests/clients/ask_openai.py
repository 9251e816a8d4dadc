"""Run by the Python that has OpenAI's SDK: asks the service at argv[1], and prints what it got as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import openai

URL, KEY = sys.argv[1:3]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY)
found: dict[str, Any] = {"version": openai.__version__}


def refused(name: str, **asked: Any) -> None:
    """What the SDK raises."""
    try:
        client.embeddings.create(**asked)
    except openai.APIStatusError as error:
        found[name] = [type(error).__name__, error.code, error.param, bool(error.request_id)]


one = client.embeddings.create(model="bert", input="hi")  # base64 on the wire
found["one"] = [len(one.data), len(one.data[0].embedding), one.model, one.usage.prompt_tokens]
two = client.embeddings.create(model="bert", input=["hi", "a longer text"], encoding_format="float")
found["same"] = max(abs(a - b) for a, b in zip(one.data[0].embedding, two.data[0].embedding, strict=True))
found["indices"] = [entry.index for entry in two.data]
found["three"] = len(client.embeddings.create(model="bert", input="hi", dimensions=3).data[0].embedding)
ids = client.embeddings.create(model="by-ids", input=[[7632], [1037, 2936, 3793]])  # "hi", "a longer text"
found["by_ids"] = max(abs(a - b) for a, b in zip(ids.data[1].embedding, two.data[1].embedding, strict=True))
refused("no_ids", model="bert", input=[[1, 2], [3]])
refused("empty", model="bert", input="")
refused("dimensions", model="bert", input="hi", dimensions=100_000)
refused("model", model="nope", input="hi")
listed = client.models.list()
found["models"] = sorted(entry.id for entry in listed)
found["model_of_org"] = client.models.retrieve("org/echo").id
try:
    client.models.retrieve("nope")
except openai.NotFoundError as error:
    found["no_model"] = error.code
with_key = openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong")
try:
    with_key.embeddings.create(model="bert", input="hi")
except openai.AuthenticationError as error:
    found["no_key"] = error.code
sys.stdout.write(json.dumps(found))
