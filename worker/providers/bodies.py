"""What an endpoint reads and answers where its provider does not say: `body` of a version."""

from __future__ import annotations

from typing import Any

from worker.providers.provider import Ask


def body_of(form: str, ask: Ask) -> Any:
    """`plain`: the input as it is, parameters beside it; `huggingface`: `{"inputs", "parameters"}`
    (https://huggingface.co/docs/sagemaker); `ml-service`: what this service's own container reads."""
    item, parameters = ask.item, ask.parameters
    if form == "huggingface":
        inputs = next(iter(item.values())) if isinstance(item, dict) and len(item) == 1 else item
        return {"inputs": inputs, **({"parameters": parameters} if parameters else {})}
    if form == "ml-service":
        return {"data": item, **({"parameters": parameters} if parameters else {})}
    if parameters and isinstance(item, dict):
        return {**item, "parameters": parameters}
    return item


def answer_of(form: str, answer: Any) -> Any:
    """The output in it."""
    if form == "ml-service" and isinstance(answer, dict):
        return answer.get("output")
    return answer
