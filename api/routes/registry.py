"""Changing the models while they are served: add, replace and remove versions, move traffic, roll back. For
administrators. Each answers 200 when callers get it now, 202 when a rollout has begun (`rollouts` tell how far it is).

`If-Match: <etag>` changes only what you have read; `?dry_run=true` tells what would change, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from api.admin import admin_only
from api.answers import json_response
from api.bodies import faults_of, read_model
from api.deps import services
from api.docs import json_body, problems
from api.paths import MODEL
from api.rollouts import rollout
from api.schemas import Changed
from shared.errors import BadRequest, Fault, InvalidInput, RegistryChanged
from shared.fallback import unfit
from shared.model_spec import ModelName, ModelsFile, ModelSpec, VersionName, VersionSpec
from shared.registry import Registry
from shared.registry_diff import differences

router = APIRouter(prefix="/v1/models", dependencies=[Depends(admin_only)])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": Changed, "description": "Callers get it now"},
    202: {"model": Changed, "description": "Callers get it when workers have it"},
    **problems(400, 401, 403, 404, 409, 412, 422, 503),
}


_CHOICES: list[dict[str, Any]] = [
    {"name": "dry_run", "in": "query", "schema": {"type": "boolean"}, "description": "only tell what would change"},
    {"name": "If-Match", "in": "header", "schema": {"type": "string"}, "description": "the `ETag` that you have read"},
]
_REPLACE = [
    {"name": "replace", "in": "query", "schema": {"type": "boolean"}, "description": "all traffic goes to it"},
]


def _asks(body: type[BaseModel] | None = None, *more: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": [*_CHOICES, *more]} | (json_body(body) if body else {})


class Traffic(BaseModel):
    """Shares of the calls that pin no version; relative to each other."""

    model_config = ConfigDict(extra="forbid")

    traffic: dict[VersionName, float] = Field(min_length=1)


@router.put("", summary="All models", response_model=None, responses=_ANSWERS, openapi_extra=_asks(ModelsFile))
async def put_all(request: Request) -> Response:
    """What models.yaml says, as JSON: these models and no others."""
    asked = read_model(ModelsFile, await request.body())
    return await _change(request, lambda now: now.with_models(asked.models, exact=True))


@router.put(
    f"/{MODEL}/versions/{{version}}",
    summary="A version",
    response_model=None,
    responses=_ANSWERS,
    openapi_extra=_asks(VersionSpec, *_REPLACE),
)
async def put_version(request: Request, model: str, version: str) -> Response:
    """Beside those that there are, and without traffic; with `?replace=true` all the traffic goes to it as soon as
    workers have it, and the versions that had it go when their jobs have ended."""
    name, spec = _name(version, VersionName, "version"), read_model(VersionSpec, await request.body())
    replace = _flag(request, "replace")
    return await _change(request, lambda now: now.with_version(model, name, spec, replace=replace))


@router.delete(
    f"/{MODEL}/versions/{{version}}",
    summary="Remove a version",
    response_model=None,
    responses=_ANSWERS,
    openapi_extra=_asks(),
)
async def delete_version(request: Request, model: str, version: str) -> Response:
    """Nobody can ask for it any more; its jobs are ended before it is unloaded. Not while it has traffic."""
    return await _change(request, lambda now: now.without_version(model, version))


@router.put(
    f"/{MODEL}/traffic",
    summary="Shares of the versions",
    response_model=None,
    responses=_ANSWERS,
    openapi_extra=_asks(Traffic),
)
async def put_traffic(request: Request, model: str) -> Response:
    """From this moment on, for all API processes at once."""
    asked = read_model(Traffic, await request.body())
    return await _change(request, lambda now: now.with_traffic(model, asked.traffic))


@router.post(
    f"/{MODEL}/rollback", summary="Back to what it was", response_model=None, responses=_ANSWERS, openapi_extra=_asks()
)
async def roll_back(request: Request, model: str) -> Response:
    """A rollout under way is called off; else the change before is undone. Twice is back again."""
    return await _change(request, lambda now: now.rolled_back(model))


@router.put(f"/{MODEL}", summary="A model", response_model=None, responses=_ANSWERS, openapi_extra=_asks(ModelSpec))
async def put_model(request: Request, model: str) -> Response:
    """Added, or changed: as one entry under `models` of models.yaml."""
    name, spec = _name(model, ModelName, "model"), read_model(ModelSpec, await request.body())
    return await _change(request, lambda now: _fitting(name, now.with_models({name: spec})))


@router.delete(f"/{MODEL}", summary="Remove a model", response_model=None, responses=_ANSWERS, openapi_extra=_asks())
async def delete_model(request: Request, model: str) -> Response:
    """Nobody can ask for it any more; its jobs are ended before its versions are unloaded."""
    return await _change(request, lambda now: now.without(model))


def _fitting(model: str, registry: Registry) -> Registry:
    """With a fallback that can be one: of all models that are to be. Raises InvalidInput."""
    why = unfit(model, {name: entry.spec for name, entry in registry.models.items()})
    if why:
        raise InvalidInput("the model does not fit", faults=[Fault(pointer="/fallback", message=why)])
    return registry


async def _change(request: Request, how: Callable[[Registry], Registry]) -> Response:
    parts = services(request)
    before = await parts.registry.refresh()
    seen = request.headers.get("if-match", "").strip().strip('"') or None
    try:
        if _flag(request, "dry_run"):
            if seen not in (None, before.etag):
                raise RegistryChanged
            after = how(before)
        else:
            after = await parts.registry.change(how, seen=seen)
    except ValidationError as error:
        raise InvalidInput("the model does not fit", faults=faults_of(error)) from None
    workers = await parts.presence.workers()
    under_way = [rollout(name, entry, workers) for name, entry in after.models.items() if entry.rolling]
    body = Changed(generation=after.generation, changes=differences(before, after), rollouts=under_way)
    etag = (before if _flag(request, "dry_run") else after).etag
    return json_response(body, 202 if under_way else 200, {"ETag": f'"{etag}"'})


def _name(given: str, kind: Any, what: str) -> str:
    try:
        checked: str = TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        raise InvalidInput(f"{given[:80]!r} is no name of a {what}: {error.errors()[0]['msg']}") from None
    return checked


def _flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "false").lower()
    if given not in ("true", "false", "1", "0"):
        raise BadRequest(f"{name} must be true or false, not {given[:40]!r}")
    return given in ("true", "1")
