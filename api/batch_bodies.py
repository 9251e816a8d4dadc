"""A request to a batch: a JSON object with a list of inputs, or JSON lines with the envelope in the query."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from api.auth import Caller, caller_of
from api.batch_lines import Slices, in_slices, json_lines, read_list
from api.bodies import JSON_FIELDS, faults_of, only_model, typed
from api.content_types import JSON_LINES, content_type, taken_for_json
from api.inputs import pointer
from api.middleware import headers_of
from api.schemas import BatchRequest
from api.submission import NewJob
from shared.api_keys import Scope
from shared.catalog import Catalog
from shared.errors import Fault, InvalidInput, UnsupportedMedia


async def read_batch(request: Request, catalog: Catalog, *, longest: int) -> tuple[NewJob, Slices]:
    """What a request asks for (each line as this job, `input` aside), and its inputs. A line may have `longest` bytes.
    Raises Forbidden for a key that may not submit, BadRequest, UnsupportedMedia, InvalidInput; the slices too."""
    caller = caller_of(request, Scope.SUBMIT)
    kind = content_type(request.scope)
    if kind in JSON_LINES:
        new = _asked(typed(dict(request.query_params), JSON_FIELDS), caller, catalog)
        slices = json_lines(request.stream(), longest)
    elif taken_for_json(kind):
        fields, inputs = await asyncio.to_thread(read_list, await request.body())
        if "inputs" in fields or inputs is None:
            message = "must be a list" if "inputs" in fields else "Field required"
            others = [Fault(pointer=pointer([name]), message="Extra inputs are not permitted") for name in _odd(fields)]
            raise InvalidInput("the request does not fit", faults=[Fault(pointer="/inputs", message=message), *others])
        new = _asked(fields, caller, catalog)
        slices = in_slices(inputs)
    else:
        raise UnsupportedMedia(
            f"content type {kind!r} is not supported; send a JSON object with `inputs`, or application/x-ndjson"
        )
    new.caller, new.headers = caller, headers_of(request)
    return new, slices


def _odd(fields: dict[str, Any]) -> list[str]:
    return [name for name in fields if name not in BatchRequest.model_fields]


def _asked(fields: dict[str, Any], caller: Caller, catalog: Catalog) -> NewJob:
    if fields.get("model") is None:
        model, choice = only_model(caller, catalog)
        if not model:
            raise InvalidInput(faults=[Fault(pointer="/model", message=f"Field required: one of {choice}")])
        fields["model"] = model
    try:
        envelope = BatchRequest.model_validate(fields)
    except ValidationError as error:
        raise InvalidInput("the request does not fit", faults=faults_of(error)) from None
    asked = {name: getattr(envelope, name) for name in type(envelope).model_fields if name != "inputs"}
    asked["parameters"] = asked["parameters"] or {}
    return NewJob(**asked)
