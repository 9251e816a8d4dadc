"""`/v1/models`: one body for people, our tools and OpenAI's SDK. An unknown model is told in OpenAI's shape."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.answers import json_response
from api.auth import caller_of, needs
from api.deps import Services, services
from api.docs import problems
from api.paths import MODEL
from api.presence import Workers
from api.rollouts import rollout
from api.schemas import ModelEntry, ModelList, OpenAIError
from shared.api_keys import Scope
from shared.errors import StoreUnavailable, UnknownModel
from shared.model_spec import ModelSpec
from shared.tasks import BUILT_IN

router = APIRouter(prefix="/v1/models", dependencies=[needs(Scope.READ)])

_OF_WORKER = ("worker", "device", "gpu", "state", "error", "memory", "calibration")  # of a version's card


@router.get("", summary="All models", response_model=None, responses={200: {"model": ModelList}, **problems(401, 403)})
async def list_models(request: Request) -> Response:
    """What is configured, and which versions have a living worker; of a key with a list of models, these."""
    parts, caller = services(request), caller_of(request)
    workers, paused = await _look(parts)
    mine = [(name, spec) for name, spec in parts.catalog.models.items() if caller.may_use(name)]
    data = [_entry(parts, name, spec, workers, paused=paused) for name, spec in mine]
    models = [(name, entry) for name, entry in parts.registry.known.models.items() if caller.may_use(name)]
    under_way = [rollout(name, entry, workers).model_dump(mode="json") for name, entry in models if entry.rolling]
    return json_response({"object": "list", "data": data, "rollouts": under_way}, headers=_etag(parts))


@router.get(
    f"/{MODEL}",
    summary="One model",
    response_model=None,
    responses={200: {"model": ModelEntry}, 404: {"model": OpenAIError}, **problems(401, 403)},
)
async def read_model(request: Request, model: str) -> Response:
    """By name, or `name@version` (or alias): then that version's schemas."""
    parts = services(request)
    workers, paused = await _look(parts)
    try:
        if not caller_of(request).may_use(model.partition("@")[0]):
            raise UnknownModel
        ref = parts.catalog.resolve(model)
    except UnknownModel as error:
        told = {"message": error.message, "type": "invalid_request_error", "param": None, "code": error.code}
        return json_response({"error": told}, 404, _etag(parts))
    pin = ref.version if "@" in model else None
    spec = parts.catalog.spec(ref.model)
    return json_response(_entry(parts, ref.model, spec, workers, paused=paused, pin=pin), headers=_etag(parts))


async def _look(parts: Services) -> tuple[Workers, dict[str, datetime]]:
    """Without Redis the models that were known still stand; nobody is known to serve them."""
    try:
        await parts.registry.refresh()
        return await parts.presence.workers(), await parts.pauses.read()
    except StoreUnavailable:
        return Workers(), {}


def _entry(
    parts: Services,
    name: str,
    spec: ModelSpec,
    workers: Workers,
    *,
    paused: dict[str, datetime],
    pin: str | None = None,
) -> dict[str, Any]:
    weights = spec.weights()
    total = sum(weights.values())
    versions = []
    for version in [pin] if pin else spec.versions:
        cards = workers.cards.get(f"{name}@{version}", [])
        versions.append(
            {
                "version": version,
                "ready": workers.ready(f"{name}@{version}"),
                "traffic": weights.get(version, 0.0) / total,
                "workers": [{key: card[key] for key in _OF_WORKER if key in card} for card in cards],
            }
        )
    shown = pin or max(weights, key=lambda version: weights[version])
    card = next(iter(workers.cards.get(f"{name}@{shown}", [])), {})
    return {
        "id": f"{name}@{pin}" if pin else name,
        "object": "model",
        "created": parts.started_at,
        "owned_by": "ml-service",
        "task": spec.task or card.get("task"),
        "versions": versions,
        "aliases": spec.aliases,
        "traffic": weights,
        "ready": sum(version["ready"] for version in versions),
        "paused": name in paused,
        "paused_since": paused.get(name),
        "rollout": _rollout(parts, name, workers),
        "limits": spec.limits.model_dump(),
        "example": card.get("example"),
        **_schemas(spec, card),
    }


def _schemas(spec: ModelSpec, card: dict[str, Any]) -> dict[str, Any]:
    if spec.task is None:
        return {key: card.get(key) for key in ("input_schema", "output_schema", "parameters_schema")}
    task = BUILT_IN[spec.task]
    return {
        "input_schema": task.input_schema(),
        "output_schema": task.output_schema(),
        "parameters_schema": task.parameters.model_json_schema(),
    }


def _rollout(parts: Services, name: str, workers: Workers) -> dict[str, Any] | None:
    entry = parts.registry.known.models.get(name)
    if entry is None or not entry.rolling:
        return None
    return rollout(name, entry, workers).model_dump(mode="json")


def _etag(parts: Services) -> dict[str, str]:
    return {"ETag": f'"{parts.registry.known.etag}"'}
