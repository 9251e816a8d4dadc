"""Managed providers as models.yaml names them: `source: "openai:gpt-4o-mini"`, `sagemaker:ENDPOINT`,
`vertex:PROJECT/LOCATION/ENDPOINT`. Who calls them is worker/providers/."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, AnyHttpUrl, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shared.rates import RateText

_SOURCES = {
    "openai": (re.compile(r"\S+"), "openai:MODEL, as in openai:gpt-4o-mini"),
    "sagemaker": (re.compile(r"[A-Za-z0-9](-*[A-Za-z0-9]){0,62}"), "sagemaker:ENDPOINT"),
    "vertex": (re.compile(r"[a-z][a-z0-9.:-]*/[a-z0-9-]+/[A-Za-z0-9._-]+"), "vertex:PROJECT/LOCATION/ENDPOINT"),
}
_OPENAI_TASKS = ("chat", "text-embedding")
_URL = TypeAdapter(AnyHttpUrl)


def _is_url(text: str) -> str:
    try:
        _URL.validate_python(text)
    except ValidationError:
        raise ValueError("must be a URL, as in https://api.example.com/v1") from None
    return text.rstrip("/")


EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]


class ProviderRate(BaseModel):
    """What all workers together ask of the provider at most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: RateText | None = None
    tokens: RateText | None = None


class Price(BaseModel):
    """Of a million tokens read and written, in whatever currency you count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(0, ge=0)
    output: float = Field(0, ge=0)


class ProviderOptions(BaseModel):
    """A version's further fields where its source is a provider. `concurrency`: calls at a time of one worker;
    `retries`: how often a call that failed for a moment is tried again (where the provider says when to come back,
    until the job's deadline); `base_url`: another address of it. OpenAI: `api_key_env`, the variable with its key;
    `dimensions` of embeddings, where a job asks for none; `token_ids`, texts may come as the model's own. SageMaker:
    `region`; `body`, what its endpoint reads (worker/providers/bodies.py). Vertex AI: `credentials: none` for an
    endpoint of your own that asks for none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int = Field(8, ge=1, le=256)
    retries: int = Field(4, ge=0, le=20)
    rate: ProviderRate = ProviderRate()
    price: Price = Price()
    base_url: Annotated[str, AfterValidator(_is_url)] | None = None
    api_key_env: EnvName = "OPENAI_API_KEY"
    dimensions: int | None = Field(None, ge=1)
    token_ids: bool = False
    region: str | None = Field(None, min_length=1, max_length=64)
    body: Literal["plain", "huggingface", "ml-service"] = "plain"
    credentials: Literal["default", "none"] = "default"


def provider_of(source: str) -> str:
    """`openai`, `sagemaker`, `vertex`; empty: no managed provider."""
    name, colon, _ = source.partition(":")
    return name if colon and name in _SOURCES else ""


def check_source(source: str) -> None:
    """Raises ValueError that says how a provider's source is written."""
    pattern, told = _SOURCES[provider_of(source)]
    if not pattern.fullmatch(source.partition(":")[2]):
        raise ValueError(f"source {source!r} is not {told}")


def check_task(source: str, task: str) -> None:
    """Raises ValueError for a task that this provider cannot do."""
    if provider_of(source) == "openai" and task not in _OPENAI_TASKS:
        raise ValueError(f"task {task!r}: {source} can do {' and '.join(_OPENAI_TASKS)}")
