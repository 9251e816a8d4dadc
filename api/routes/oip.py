"""`/v2`: the Open Inference Protocol v2 (KServe, Triton, their clients), HTTP with JSON and binary tensors.

https://github.com/kserve/open-inference-protocol and Triton's extensions binary_tensor_data, model_repository,
model_configuration, statistics, schedule_policy (`priority`, `timeout`). No gRPC, shared memory or sequences.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from api import VERSION
from api.admin import admin_only
from api.answers import job_headers, json_response
from api.ask import Answer, ask, failure
from api.auth import caller_of
from api.bodies import read_json, read_model
from api.deps import Services, services
from api.jobs import refuse_foreign
from api.middleware import headers_of
from api.oip import inputs_of, items_of, outputs_of, tensors_of
from api.paths import OIP_MODEL
from api.presence import Workers
from api.readiness import check
from api.sight import read_counters
from api.submission import NewJob
from api.tensors import Tensor, TensorError, from_bytes, from_json, to_bytes, to_json
from shared.api_keys import Scope
from shared.catalog import Ref
from shared.errors import BadRequest, Fault, InvalidInput, ModelUnavailable, StoreUnavailable
from shared.keys import MAX_DEADLINE_S, PriorityName
from shared.tasks import BUILT_IN, Task

router = APIRouter(prefix="/v2", include_in_schema=False)

HEADER = "inference-header-content-length"
_EXTENSIONS = ["binary_tensor_data", "model_repository", "model_configuration", "statistics", "schedule_policy"]
_MODEL, _VERSIONED = f"/models/{OIP_MODEL}", f"/models/{OIP_MODEL}/versions/{{version}}"
_UNSUPPORTED = ("sequence_id", "sequence_start", "sequence_end")


class _Told(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)


class _Input(_Told):
    datatype: str
    shape: list[StrictInt]
    data: Any = None


class InferRequest(BaseModel):
    """The JSON of a call."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: list[_Input] = Field(min_length=1, max_length=64)
    outputs: list[_Told] | None = None


@router.get("/health/live")
async def live() -> Response:
    """The process answers."""
    return json_response({"live": True})


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """Jobs can be queued. (The protocol's key is `live`, KServe's client reads `ready`.)"""
    missing = [one for one in await check(services(request), None) if not one.ready]
    return json_response({"ready": not missing, "live": True}, 503 if missing else 200)


@router.get("")
async def server(request: Request) -> Response:
    """What this is."""
    caller_of(request, Scope.READ)
    return json_response({"name": "ml-service", "version": VERSION, "extensions": _EXTENSIONS})


@router.get(f"{_MODEL}/ready")
@router.get(f"{_VERSIONED}/ready")
async def model_ready(request: Request, model: str, version: str | None = None) -> Response:
    """A living worker serves it, and it is not paused; 503 else."""
    parts = services(request)
    ref = _ref(request, model, version)
    workers, paused = await parts.presence.workers(), await parts.pauses.read()
    if not workers.serves(str(ref)):
        raise ModelUnavailable(f"no living worker serves {ref}")
    if ref.model in paused:
        raise ModelUnavailable(f"{ref.model} is paused")
    return json_response({"name": model, "ready": True})


@router.get(f"{_MODEL}/config")
@router.get(f"{_VERSIONED}/config")
async def config(request: Request, model: str, version: str | None = None) -> Response:
    """In the words of Triton's model configuration."""
    parts = services(request)
    ref = _ref(request, model, version)
    inputs, outputs = await _tensors(parts, ref)
    return json_response(
        {
            "name": model,
            "platform": _platform(parts, ref),
            "backend": "ml-service",
            "max_batch_size": parts.catalog.spec(ref.model).batch.max_size,
            "input": [_configured(one) for one in inputs],
            "output": [_configured(one) for one in outputs],
            "dynamic_batching": {},
            "version_policy": {"specific": {"versions": list(parts.catalog.spec(ref.model).versions)}},
        }
    )


@router.get("/models/stats")
@router.get(f"{_MODEL}/stats")
@router.get(f"{_VERSIONED}/stats")
async def stats(request: Request, model: str | None = None, version: str | None = None) -> Response:
    """How many jobs have ended, and how many wait and run. (Times are histograms at /metrics.)"""
    parts, caller = services(request), caller_of(request, Scope.READ)
    counters = await read_counters(parts.submitter, parts.catalog)
    asked = _ref(request, model, version) if model else None
    told = []
    for ref, _, _ in parts.catalog.refs():
        if not caller.may_use(ref.model):
            continue
        if asked and (ref.model != asked.model or (version and ref.version != asked.version)):
            continue
        states = counters[ref.model, ref.version]
        told.append(
            {
                "name": ref.model,
                "version": ref.version,
                "inference_count": states["succeeded"],
                "inference_stats": {"success": {"count": states["succeeded"]}, "fail": {"count": states["failed"]}},
                "queued": states["queued"],
                "running": states["running"],
            }
        )
    return json_response({"model_stats": told})


@router.post(f"{_MODEL}/infer")
@router.post(f"{_VERSIONED}/infer")
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """One job, and its answer. `timeout` (microseconds) is its deadline, and how long it is waited for;
    `priority` 1 is high, 3 and above low; other parameters are the task's own."""
    parts, caller = services(request), caller_of(request, Scope.SUBMIT)
    asked, tensors = _read(await request.body(), request.headers.get(HEADER))
    new = NewJob(model, version=version or None, caller=caller, headers=headers_of(request))
    ref = _ref(request, model, version, Scope.SUBMIT)
    task, schema = await _contract(parts, ref)
    new.input = items_of(tensors, task, (schema or {}).get("input_schema"))
    new.picked = not new.pinned
    new.version, new.model = ref.version, ref.model  # by whose schema the tensors were read
    wait_s = _take_parameters(new, asked.parameters, parts.settings.max_wait_s)
    try:
        answer = await ask(parts, new, wait_s, request.receive)
    except InvalidInput as error:
        raise InvalidInput(error.message, faults=[_in_request(fault, tensors) for fault in error.faults]) from None
    failed = failure(request, answer, lambda fault: _in_request(fault, tensors))
    if failed is not None:
        return failed
    return _answer(answer.ticket.used(model), asked, answer, tensors_of(answer.output, task))


@router.post("/repository/index", dependencies=[Depends(admin_only)])
async def index(request: Request) -> Response:
    """Every version, and whether a worker has it. `{"ready": true}` in the body: only those."""
    parts = services(request)
    body = await request.body()
    only_ready = bool(body) and read_json(body) == {"ready": True}
    workers, paused = await parts.presence.workers(), await parts.pauses.read()
    told = []
    for ref, _, _ in parts.catalog.refs():
        reason = "paused" if ref.model in paused else "" if workers.serves(str(ref)) else "no living worker serves it"
        if not (only_ready and reason):
            state = "UNAVAILABLE" if reason else "READY"
            told.append({"name": ref.model, "version": ref.version, "state": state, "reason": reason})
    return json_response(told)


@router.post(f"/repository/models/{OIP_MODEL}/load", dependencies=[Depends(admin_only)])
async def load(request: Request, model: str) -> Response:
    """Its jobs start (again): see `unload`. What is loaded, and when, is for models.yaml to say."""
    await services(request).pauses.resume(model)
    return json_response({})


@router.post(f"/repository/models/{OIP_MODEL}/unload", dependencies=[Depends(admin_only)])
async def unload(request: Request, model: str) -> Response:
    """A pause: no job of it starts; what comes waits. The memory of a lazy model is free after its `keep_alive_s`."""
    await services(request).pauses.pause(model)
    return json_response({})


@router.get(_VERSIONED)
@router.get(_MODEL)
async def metadata(request: Request, model: str, version: str | None = None) -> Response:
    """Its tensors."""
    parts = services(request)
    ref = _ref(request, model, version)
    inputs, outputs = await _tensors(parts, ref)
    return json_response(
        {
            "name": model,
            "versions": list(parts.catalog.spec(ref.model).versions),
            "platform": _platform(parts, ref),
            "inputs": inputs,
            "outputs": outputs,
        }
    )


def _ref(request: Request, model: str, version: str | None, scope: Scope = Scope.READ) -> Ref:
    new = NewJob(model, caller=caller_of(request, scope))
    refuse_foreign(new)
    return services(request).catalog.resolve(model, version or None)


async def _contract(parts: Services, ref: Ref) -> tuple[Task | None, dict[str, Any] | None]:
    """A built-in task, or what a worker's card tells of a handler (whose contract may be a built-in task's)."""
    spec = parts.catalog.spec(ref.model)
    if spec.task is not None:
        return BUILT_IN[spec.task], None
    try:
        workers = await parts.presence.workers()
    except StoreUnavailable:
        workers = Workers()
    card = next(iter(workers.cards.get(str(ref), [])), {})
    like = BUILT_IN.get(card.get("task") or "")
    if like is not None and card.get("input_schema") == like.input_schema():
        return like, None
    return None, card


async def _tensors(parts: Services, ref: Ref) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    task, card = await _contract(parts, ref)
    told = card or {}
    return inputs_of(task, told.get("input_schema")), outputs_of(task, told.get("output_schema"))


def _platform(parts: Services, ref: Ref) -> str:
    return "onnxruntime_onnx" if parts.catalog.spec(ref.model).versions[ref.version].onnx else "pytorch_torch"


def _configured(tensor: dict[str, Any]) -> dict[str, Any]:
    """Triton's: without the dimension of the batch, and TYPE_STRING for BYTES."""
    kind = "STRING" if tensor["datatype"] == "BYTES" else tensor["datatype"]
    return {"name": tensor["name"], "data_type": f"TYPE_{kind}", "dims": tensor["shape"][1:] or [1]}


def _read(body: bytes, header: str | None) -> tuple[InferRequest, list[Tensor]]:
    """The call's JSON, and its tensors. Raises BadRequest, InvalidInput."""
    size = len(body)
    if header is not None:
        if not (header.isascii() and header.isdigit() and int(header) <= len(body)):
            raise BadRequest(f"Inference-Header-Content-Length must be a number up to the body's {len(body)} bytes")
        size = int(header)
        if size == 0:
            raise BadRequest("a body without JSON (raw binary request) is not supported")
    asked = read_model(InferRequest, body[:size])
    rest = memoryview(body)[size:]
    tensors = []
    for number, told in enumerate(asked.inputs):
        binary = told.parameters.get("binary_data_size")
        try:
            if binary is None:
                tensors.append(from_json(told.name, told.datatype, tuple(told.shape), told.data))
                continue
            if type(binary) is not int or not 0 <= binary <= len(rest):
                raise TensorError(f"binary_data_size is {binary!r}, and {len(rest)} bytes are left in the body")
            tensors.append(from_bytes(told.name, told.datatype, tuple(told.shape), rest[:binary]))
            rest = rest[binary:]
        except (TensorError, OverflowError, struct.error) as error:
            raise InvalidInput(faults=[Fault(pointer=f"/inputs/{number}", message=str(error))]) from None
    if len(rest):
        raise InvalidInput(faults=[Fault(pointer="/inputs", message=f"{len(rest)} bytes of the body belong to none")])
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        raise InvalidInput(faults=[Fault(pointer="/inputs", message="two inputs have one name")])
    return asked, tensors


def _take_parameters(new: NewJob, told: dict[str, Any], most_s: float) -> float:
    """Those of the protocol; the rest are the task's. How long to wait (s)."""
    own = {name: value for name, value in told.items() if name != "binary_data_output"}
    for name in _UNSUPPORTED:
        if own.pop(name, None):
            raise InvalidInput(faults=[Fault(pointer=f"/parameters/{name}", message="sequences are not supported")])
    new.priority = _priority(own.pop("priority", 0))
    timeout = own.pop("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout <= MAX_DEADLINE_S * 1_000_000:
        raise InvalidInput(faults=[Fault(pointer="/parameters/timeout", message="is in microseconds, from 0 on")])
    new.parameters = own
    return min(timeout / 1_000_000, most_s) if timeout else most_s


def _priority(told: Any) -> PriorityName:
    if type(told) is not int or told < 0:
        raise InvalidInput(faults=[Fault(pointer="/parameters/priority", message="is 0 (none), 1 (high), 2, 3 ...")])
    return "high" if told == 1 else "low" if told >= 3 else "normal"


def _in_request(fault: Fault, tensors: Sequence[Tensor]) -> Fault:
    """/3/text is the element 3 of the input `text`."""
    steps = fault.pointer.split("/")[1:]
    names = [tensor.name for tensor in tensors]
    if len(steps) >= 2 and steps[0].isdigit() and steps[1] in names:
        place = f"/inputs/{names.index(steps[1])}/data/{steps[0]}"
        return Fault(pointer=place, code=fault.code, message=f"{steps[1]}[{steps[0]}]: {fault.message}")
    return fault


def _answer(model: str, asked: InferRequest, answer: Answer, tensors: list[Tensor]) -> Response:
    by_name = {tensor.name: tensor for tensor in tensors}
    wanted = [(one.name, one.parameters) for one in asked.outputs or ()] or [(name, {}) for name in by_name]
    head: dict[str, Any] = {"model_name": model, "model_version": answer.ticket.ref.version}
    if asked.id is not None:
        head["id"] = asked.id
    head["parameters"] = {"job_id": answer.ticket.job_id}
    head["outputs"], tail = [], []
    for name, parameters in wanted:
        tensor = by_name.get(name)
        if tensor is None:
            message = f"there is no output {name!r}; there are {', '.join(by_name)}"
            raise InvalidInput(faults=[Fault(pointer="/outputs", message=message)])
        told: dict[str, Any] = {"name": name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if parameters.get("binary_data", asked.parameters.get("binary_data_output", False)) is True:
            raw = to_bytes(tensor)
            tail.append(raw)
            told["parameters"] = {"binary_data_size": len(raw)}
        else:
            told["data"] = to_json(tensor)
        head["outputs"].append(told)
    text = orjson.dumps(head)
    headers = job_headers(answer.ticket)
    if not tail:
        return Response(text, headers=headers, media_type="application/json")
    headers["Inference-Header-Content-Length"] = str(len(text))
    return Response(b"".join([text, *tail]), headers=headers, media_type="application/octet-stream")
