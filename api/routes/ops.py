"""Is it alive, is it ready, what is it doing: for people, orchestrators and Prometheus."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.auth import known_caller, needs
from api.deps import Services, services
from api.docs import problems
from api.errors import problem
from api.metrics import read_counters
from api.schemas import Health
from api.submitter import Command, refusal
from shared import keys
from shared.api_keys import Scope
from shared.errors import ServiceError, StoreUnavailable

router = APIRouter()

_HEALTH_S = 1.0  # a hanging Redis must not make the health check hang


@router.get("/livez", summary="The process answers", response_model=None)
async def livez() -> Response:
    """200 as long as the process lives."""
    return _json({"status": "ok"})


@router.get("/readyz", summary="Jobs can be queued", response_model=None, responses=problems(404, 503))
async def readyz(request: Request) -> Response:
    """200 when Redis takes writes: jobs can be queued, with or without workers. With `?model=bert` (or `bert@1`)
    only when a living worker serves it."""
    parts = services(request)
    if parts.draining:
        return problem(request, "store_unavailable", "this process is shutting down")
    reply = (await parts.submitter.run(Command("SET", keys.PROBE, "1", "PX", 10_000)))[0]
    if isinstance(reply, Exception):
        raise refusal(reply)
    model = request.query_params.get("model")
    if model:
        ref = parts.catalog.resolve(model)
        workers = await parts.presence.workers()
        spec = parts.catalog.spec(ref.model)
        versions = [ref.version] if "@" in model else [v for v, share in spec.weights().items() if share > 0]
        missing = [v for v in versions if not workers.serves(f"{ref.model}@{v}")]
        if missing:
            return problem(request, "model_unavailable", f"no living worker serves {ref.model} {', '.join(missing)}")
    return _json({"status": "ok"})


@router.get("/health", summary="State of the service", response_model=None, responses={200: {"model": Health}})
async def health(request: Request) -> Response:
    """Always 200 while the API lives; the body tells of Redis, and, where keys are off or a key is shown, of models and
    workers."""
    parts = services(request)
    try:
        body = await asyncio.wait_for(_health(parts), _HEALTH_S)
    except (ServiceError, TimeoutError):
        models = {name: {"workers": 0, "queue_depth": 0} for name in parts.catalog.models}
        body = {"status": "degraded", "models": models, "workers": 0, "queue_depth": 0}
    return _json(body if known_caller(request) else {"status": body["status"]})


async def _health(parts: Services) -> dict[str, Any]:
    workers, counters = await asyncio.gather(
        parts.presence.workers(), read_counters(parts.submitter, parts.catalog), return_exceptions=True
    )
    if isinstance(workers, BaseException) or isinstance(counters, BaseException):
        raise StoreUnavailable
    models: dict[str, dict[str, Any]] = {}
    for ref, _, _ in parts.catalog.refs():
        model = models.setdefault(ref.model, {"workers": 0, "queue_depth": 0, "running": 0, "versions": {}})
        states, ready = counters[ref.model, ref.version], workers.ready(str(ref))
        model["queue_depth"] += states["queued"]
        model["running"] += states["running"]
        model["workers"] += ready
        model["versions"][ref.version] = {"workers": ready}
    return {
        "status": "ok",
        "models": models,
        "workers": len(workers.workers),
        "queue_depth": sum(model["queue_depth"] for model in models.values()),
    }


@router.get("/metrics", summary="Prometheus metrics", response_class=Response, dependencies=[needs(Scope.METRICS)])
async def metrics(request: Request) -> Response:
    """Queue depth, jobs by state, and this process."""
    return Response(await request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
