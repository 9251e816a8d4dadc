"""Request bodies: JSON, a raw file, or multipart, to one thing: a NewJob.

Content types are read liberally (clients send odd ones), contents strictly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from api.auth import Caller, caller_of
from api.content_types import content_type, taken_for_json
from api.inputs import FILE, URL, pointer
from api.middleware import headers_of
from api.schemas import InferenceRequest, JobRequest
from api.submission import NewJob
from shared.api_keys import Scope
from shared.catalog import Catalog
from shared.depth import MAX_DEPTH, too_deep
from shared.errors import BadRequest, Fault, InvalidInput, UnsupportedMedia
from shared.task import message_of

M = TypeVar("M", bound=BaseModel)

_MOST_FILES = 2048
_RAW = ("image/", "audio/", "video/", "application/octet-stream")
JSON_FIELDS = {"parameters", "labels", "webhook"}
_REFERENCES = (f'"{FILE}"'.encode(), f'"{URL}"'.encode())


@dataclass(frozen=True, slots=True)
class Face:
    """One route's names: of the model's field and the input's, and the model of its envelope."""

    model_field: str
    input_field: str
    schema: type[BaseModel]


INFERENCE = Face("model_type", "data", InferenceRequest)
JOBS = Face("model", "input", JobRequest)


async def read_job(
    request: Request, face: Face, catalog: Catalog, *, default_model: str = "", plain_text: bool = False
) -> NewJob:
    """The job that a request asks for. `default_model`: whose it is when the request names none (the only one, where
    there is only one); `plain_text`: a text/plain body is a text, not JSON of an odd type. Raises Forbidden for a key
    that may not submit, BadRequest, UnsupportedMedia, InvalidInput (pointers into the body)."""
    caller = caller_of(request, Scope.SUBMIT)
    kind = content_type(request.scope)
    files: list[tuple[str, bytes]] = []
    references = False
    fields: Any
    if plain_text and kind == "text/plain":
        fields = typed(dict(request.query_params), JSON_FIELDS)
        fields[face.input_field] = {"text": _utf8(await request.body())}
    elif taken_for_json(kind):
        body = await request.body()
        fields, references = read_json(body), has_references(body)
        if not isinstance(fields, dict):
            raise InvalidInput(faults=[Fault(message="the body must be a JSON object")])
    elif kind == "multipart/form-data":
        fields, files = await _read_form(request, face)
        references = True  # few forms come, and they are not large
    elif kind.startswith(_RAW):
        files = [("", await request.body())]
        fields = typed(dict(request.query_params), JSON_FIELDS | {face.input_field})
        if not files[0][1]:
            raise BadRequest("the body is empty")
    else:
        raise UnsupportedMedia(f"content type {kind!r} is not supported; send JSON, multipart/form-data, or a raw file")
    choice = ""
    if fields.get(face.model_field) is None:
        model, choice = only_model(caller, catalog, default_model)
        if model:
            fields[face.model_field] = model
    new = _new_job(fields, files, face, choice)
    new.references = references
    new.caller, new.headers = caller, headers_of(request)
    return new


def only_model(caller: Caller, catalog: Catalog, default: str = "") -> tuple[str, str]:
    """Which model is meant where a request names none: `default`, or the only one that its caller may use; empty: there
    is none, or more than one. And those there are, for people."""
    models = sorted(name for name in catalog.models if caller.may_use(name))
    return default or (models[0] if len(models) == 1 else ""), ", ".join(models)


def _utf8(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8") from None


def has_references(body: bytes) -> bool:
    """Whether an input in this JSON may name files or URLs; a quick no spares walking each. (A name that is written
    with escapes is not seen, and then is what any other object is in the place of bytes: wrong.)"""
    return any(mark in body for mark in _REFERENCES)


def read_json(body: bytes) -> Any:
    """Strict JSON: no NaN, no Infinity, no endless nesting. Raises BadRequest."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and too_deep(value):
        raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
    return value


def read_model(kind: type[M], body: bytes, *, optional: bool = False) -> M:
    """What a JSON body says, as a model; `optional`: an empty body is an empty object. Raises BadRequest, InvalidInput
    (pointers into the body)."""
    try:
        return kind.model_validate({} if optional and not body else read_json(body))
    except ValidationError as error:
        raise InvalidInput("the request does not fit", faults=faults_of(error)) from None


def faults_of(error: ValidationError) -> list[Fault]:
    """Where in the body, and what."""
    return [
        Fault(pointer=pointer([part for part in fault["loc"] if part != "[key]"]), message=message_of(fault))
        for fault in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def _new_job(fields: dict[str, Any], files: list[tuple[str, bytes]], face: Face, choice: str) -> NewJob:
    faults: list[Fault] = []
    try:
        envelope = face.schema.model_validate(fields)
    except ValidationError as error:
        faults += faults_of(error)
    if fields.get(face.model_field) is None:
        faults.append(Fault(pointer=f"/{face.model_field}", message=f"Field required: one of {choice}"))
    if face.input_field not in fields and not files:
        faults.append(Fault(pointer=f"/{face.input_field}", message="Field required"))
    if faults:
        raise InvalidInput("the request does not fit", faults=faults)
    asked = {name: getattr(envelope, name) for name in type(envelope).model_fields}
    model, value = asked.pop(face.model_field), asked.pop(face.input_field)
    asked["parameters"] = asked["parameters"] or {}
    return NewJob(model, value, files=files, **asked)


async def _read_form(request: Request, face: Face) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """Text parts are the envelope's fields, file parts those of the input."""
    texts: dict[str, Any] = dict(request.query_params)
    files: list[tuple[str, bytes]] = []
    try:
        form: FormData = await request.form(max_files=_MOST_FILES, max_fields=64, max_part_size=2**31)
    except HTTPException as error:
        raise BadRequest(f"the multipart body cannot be read: {error.detail}") from None
    for name, part in form.multi_items():
        if isinstance(part, UploadFile):
            files.append((name, await part.read()))
        else:
            texts[name] = part
    await form.close()
    return typed(texts, JSON_FIELDS | {face.input_field}), files


def typed(texts: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Text fields of these names to JSON values, for the envelope wants no text there. Raises InvalidInput."""
    for name in names:
        if name in texts and not (name == "webhook" and texts[name][:1] not in ("{", '"')):  # a plain URL
            try:
                texts[name] = read_json(texts[name].encode())
            except BadRequest as error:
                message = error.message.replace("the body", "it")
                raise InvalidInput(faults=[Fault(pointer=f"/{name}", message=f"must be JSON: {message}")]) from None
    return texts
