"""Run by the Python that has OpenAI's SDK: chats with the service at argv[1], and prints what it got as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import openai

URL, KEY = sys.argv[1:3]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
found: dict[str, Any] = {"version": openai.__version__}


def hears(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def refused(name: str, *, model: str = "parrot", text: str = "hi", **asked: Any) -> None:
    """What the SDK raises."""
    try:
        for _ in client.chat.completions.create(model=model, messages=hears(text), **asked):
            pass
    except openai.APIStatusError as error:
        found[name] = [type(error).__name__, error.code, error.param]
    except openai.APIError as error:
        found[name] = [type(error).__name__, error.code, error.message]


one = client.chat.completions.create(
    model="parrot", messages=hears("Polly wants a cracker"), temperature=0.5, user="me"
)
(choice,) = one.choices
found["one"] = [one.object, one.model, choice.message.role, choice.message.content, choice.finish_reason]
found["usage"] = [one.usage.prompt_tokens, one.usage.completion_tokens, one.usage.total_tokens]

for name, more in (("stream", {}), ("with_usage", {"stream_options": {"include_usage": True}})):
    chunks = list(client.chat.completions.create(model="parrot", messages=hears("one two three"), stream=True, **more))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    usages = [chunk.usage.total_tokens for chunk in chunks if chunk.usage]
    text = "".join(choice.delta.content or "" for choice in choices)
    found[name] = [text, choices[0].delta.role, choices[-1].finish_reason, len({chunk.id for chunk in chunks}), usages]

greedy = {"temperature": 0, "max_tokens": 5}
llama = client.chat.completions.create(model="llama", messages=hears("a cat?"), **greedy)
found["llama"] = [llama.choices[0].finish_reason, llama.usage.completion_tokens, llama.usage.prompt_tokens > 0]
same = client.chat.completions.create(model="llama", messages=hears("a cat?"), stream=True, **greedy)
text = "".join(chunk.choices[0].delta.content or "" for chunk in same)
found["same"] = text == llama.choices[0].message.content

refused("nothing", text="nothing")
refused("nothing_streamed", text="nothing", stream=True)
refused("dead", text="die")
refused("field", extra_body={"colour": "red"})
refused("parameter", top_p=0.5, extra_body={"n": 2})
refused("seed", model="llama", seed=1)
refused("no_chat", model="bert")
refused("no_model", model="nope", stream=True)
sys.stdout.write(json.dumps(found))
