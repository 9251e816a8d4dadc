"""`POST /v1/embeddings`: the contract of OpenAI's SDKs, https://platform.openai.com/docs/api-reference/embeddings.
(`/v1/models` is in models.py: one body for all.)"""

from __future__ import annotations

import base64
from array import array
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints

from api.answers import job_headers, json_response
from api.ask import Answer, ask, failure
from api.auth import caller_of
from api.binary import flatten, little_endian
from api.bodies import read_model
from api.deps import Services, services
from api.docs import json_body, openai_errors
from api.errors import problem
from api.jobs import refuse_foreign
from api.middleware import headers_of
from api.plain_route import PlainRoute
from api.query import patience_s
from api.submission import NewJob
from shared.api_keys import Scope
from shared.errors import Fault, InvalidInput, NotAcceptable
from shared.tasks import MAX_ITEMS, TEXT_EMBEDDING

router = APIRouter(prefix="/v1", route_class=PlainRoute)

Text = Annotated[str, StringConstraints(min_length=1)]
Ids = Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1)]


class EmbeddingsRequest(BaseModel):
    """Texts, or token ids of the model's own tokeniser where its version says `token_ids: true`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "bert", "input": ["one text", "another"]}]}
    )

    model: str = Field(min_length=1)
    input: (
        Text
        | Ids
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_ITEMS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_ITEMS)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="keep the first N (Matryoshka)")
    user: str | None = Field(None, max_length=256, description="is kept as the job's label `user`")


class EmbeddingData(BaseModel):
    """One text's vector: numbers, or float32, little-endian, in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """Tokens that the model has read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """In the order of the inputs."""

    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddingData]
    usage: EmbeddingsUsage


@router.post(
    "/embeddings",
    summary="Embeddings, as OpenAI's SDKs ask for them",
    response_model=None,
    responses={
        200: {"model": EmbeddingsAnswer},
        **openai_errors(400, 401, 403, 404, 413, 429, 500, 502, 503, 504, 507),
    },
    openapi_extra=json_body(EmbeddingsRequest),
)
async def embeddings(request: Request) -> Response:
    """One job, and its answer. It is waited for as long as the client waits (`x-stainless-read-timeout`, which OpenAI's
    SDKs send), `ML_MAX_WAIT_S` (60 s) at most."""
    parts = services(request)
    caller = caller_of(request, Scope.SUBMIT)
    asked = _read(await request.body())
    new = NewJob(asked.model, caller=caller, headers=headers_of(request))
    refuse_foreign(new)
    new.input = _input(parts, asked)
    if asked.dimensions is not None:
        new.parameters = {"dimensions": asked.dimensions}
    if asked.user is not None:
        new.labels = {"user": asked.user}
    try:
        answer = await ask(parts, new, patience_s(request, parts.settings), request.receive)
    except InvalidInput as error:
        raise InvalidInput(error.message, faults=[_in_request(fault, asked) for fault in error.faults]) from None
    failed = failure(request, answer, lambda fault: _in_request(fault, asked))
    if failed is not None:
        return failed
    return _answer(request, asked, answer)


def _read(body: bytes) -> EmbeddingsRequest:
    try:
        return read_model(EmbeddingsRequest, body)
    except InvalidInput as error:
        raise InvalidInput(error.message, faults=_few(error.faults)) from None


def _few(faults: list[Fault]) -> list[Fault]:
    """Of `input`, which may be one of four, one word."""
    others = [fault for fault in faults if not fault.pointer.startswith("/input")]
    if len(others) == len(faults):
        return faults
    text = f"must be a text, a list of 1 to {MAX_ITEMS} texts, or lists of token ids; none of them empty"
    return [*others, Fault(pointer="/input", message=text)]


def _input(parts: Services, asked: EmbeddingsRequest) -> dict[str, Any]:
    ref = parts.catalog.resolve(asked.model)
    spec = parts.catalog.spec(ref.model)
    if spec.task not in (None, TEXT_EMBEDDING.name):
        raise InvalidInput(faults=[Fault(pointer="/model", message=f"{ref.model!r} is no model of embeddings")])
    if isinstance(asked.input, str):
        return {"text": asked.input}
    ids = not isinstance(asked.input[0], str)
    if ids and not all(version.options.get("token_ids") for version in spec.versions.values()):
        message = (
            f"{ref.model!r} takes texts, not token ids, which are those of another tokeniser; "
            "in LangChain say OpenAIEmbeddings(check_embedding_ctx_length=False)"
        )
        raise InvalidInput(faults=[Fault(pointer="/input", message=message)])
    if isinstance(asked.input[0], int):
        return {"text": asked.input}
    return {"texts": asked.input}


def _in_request(fault: Fault, asked: EmbeddingsRequest) -> Fault:
    pointer = fault.pointer
    for ours, theirs in (("/parameters/", "/"), ("/texts", "/input"), ("/text", "/input")):
        if pointer.startswith(ours):
            pointer = theirs + pointer.removeprefix(ours)
            break
    return Fault(pointer=pointer, code=fault.code, message=fault.message)


def _answer(request: Request, asked: EmbeddingsRequest, answer: Answer) -> Response:
    output = answer.output
    rows = output.get("embeddings", [output.get("embedding")]) if isinstance(output, dict) else []
    try:
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(row, asked.encoding_format)}
            for index, row in enumerate(rows)
        ]
    except NotAcceptable:
        data = []
    if not data:
        faults = [Fault(pointer="/model", message=f"{asked.model!r} gives no embeddings")]
        return problem(request, "invalid_input", "no embeddings", faults=faults, job_id=answer.ticket.job_id)
    tokens = answer.ours.get("tokens", 0)
    body = {
        "object": "list",
        "model": answer.ticket.used(asked.model),
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return json_response(body, headers=job_headers(answer.ticket))


def _encoded(row: Any, form: str) -> Any:
    numbers = array("f")
    flatten(row, numbers)
    return base64.b64encode(little_endian(numbers)).decode() if form == "base64" else row
