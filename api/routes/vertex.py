"""What Vertex AI asks of a custom container, on the routes that it names in the container's environment.

https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from api.answers import job_headers, json_response
from api.ask import ask, failure, in_body
from api.auth import caller_of
from api.bodies import only_model, read_model
from api.deps import services
from api.inputs import InputCheck
from api.middleware import headers_of
from api.routes.sagemaker import ping
from api.submission import NewJob
from shared.api_keys import Scope
from shared.errors import BadRequest, Fault, InvalidInput
from shared.settings import Settings
from shared.tasks import BUILT_IN, MAX_ITEMS, Task


class PredictRequest(BaseModel):
    """`{"b64": "..."}` stands for bytes, in an instance or for the whole of one."""

    model_config = ConfigDict(extra="forbid")

    instances: list[Any] = Field(min_length=1, max_length=MAX_ITEMS)
    parameters: dict[str, Any] | None = None


def make_router(settings: Settings) -> APIRouter:
    """Empty, where there are no such routes. (They are not told in OpenAPI: Vertex AI names them.)"""
    router = APIRouter(include_in_schema=False)
    if settings.vertex_health_route:
        router.add_api_route(settings.vertex_health_route, ping, methods=["GET"], response_model=None)
    if settings.vertex_predict_route:
        router.add_api_route(settings.vertex_predict_route, predict, methods=["POST"], response_model=None)
    return router


async def predict(request: Request) -> Response:
    """One job of `ML_DEFAULT_MODEL`, or of the only model, whose items are the instances."""
    parts = services(request)
    caller = caller_of(request, Scope.SUBMIT)
    asked = read_model(PredictRequest, await request.body())
    model, choice = only_model(caller, parts.catalog, parts.settings.default_model)
    if not model:
        raise BadRequest(f"there are several models: say which is meant by ML_DEFAULT_MODEL ({choice})")
    new = NewJob(model, caller=caller, headers=headers_of(request))
    new.parameters = _whole(asked.parameters or {})
    ref = parts.catalog.resolve(model)
    spec = parts.catalog.spec(ref.model)
    task = BUILT_IN[spec.task] if spec.task else None
    inputs = await parts.presence.input_check(ref)
    new.version, new.picked = ref.version, True
    new.input = [_instance(one, inputs, task) for one in asked.instances]
    try:
        answer = await ask(parts, new, parts.settings.max_wait_s, request.receive)
    except InvalidInput as error:
        raise InvalidInput(error.message, faults=[_in_request(fault) for fault in error.faults]) from None
    failed = failure(request, answer, _in_request)
    if failed is not None:
        return failed
    output = answer.output
    body = {"predictions": output if isinstance(output, list) else [output]}
    return json_response(body, headers=job_headers(answer.ticket))


def _instance(value: Any, inputs: InputCheck, task: Task | None) -> Any:
    """A text alone, or bytes alone, are the input's one field of that kind."""
    value = _bytes(value)
    if task is not None and task.whole:
        return value
    if isinstance(value, _Base64):
        return {next(iter(inputs.blobs), "image"): str(value)}
    if isinstance(value, str):
        return {task.many[0] if task is not None and task.many else "text": value}
    return value


class _Base64(str):
    """Bytes, as base64."""

    __slots__ = ()


def _bytes(value: Any) -> Any:
    """`{"b64": "..."}` as its text, wherever it stands."""
    if isinstance(value, dict):
        if value.keys() == {"b64"} and isinstance(value["b64"], str):
            return _Base64(value["b64"])
        return {name: _bytes(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_bytes(one) for one in value]
    return _whole(value)


def _whole(value: Any) -> Any:
    """Numbers come through a protobuf that knows no integers: 3.0 for 3."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return value


def _in_request(fault: Fault) -> Fault:
    return in_body(fault, "instances")
