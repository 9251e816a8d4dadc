"""Is it alive, is it ready, what is it doing: for people, orchestrators and Prometheus."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.answers import json_response
from api.auth import known_caller, needs
from api.deps import Services, services
from api.docs import problems
from api.errors import problem
from api.readiness import check
from api.schemas import Health
from api.sight import read_counters
from shared.api_keys import Scope
from shared.errors import ServiceError, StoreUnavailable

router = APIRouter()

_HEALTH_S = 1.0  # a hanging Redis must not make the health check hang


@router.get("/livez", summary="The process answers", response_model=None)
async def livez() -> Response:
    """200 as long as the process lives."""
    return json_response({"status": "ok"})


@router.get("/readyz", summary="Jobs can be queued", response_model=None, responses=problems(404, 503))
async def readyz(request: Request) -> Response:
    """200 when Redis takes writes and the models are known: jobs can be queued, with or without workers. With
    `?model=bert` (or `bert@1`) only when a living worker serves it. `checks` says of each what it found."""
    checks = await check(services(request), request.query_params.get("model"))
    told = {"checks": {one.name: one.told() for one in checks}}
    missing = [one for one in checks if not one.ready]
    if not missing:
        return json_response({"status": "ok", **told})
    detail = "; ".join(f"{one.name}: {one.detail}" for one in missing)
    return problem(request, missing[0].code, detail, more=told)


@router.get("/health", summary="State of the service", response_model=None, responses={200: {"model": Health}})
async def health(request: Request) -> Response:
    """Always 200 while the API lives; the body tells of Redis, and, where keys are off or a key is shown, of models and
    workers."""
    parts = services(request)
    try:
        body = await asyncio.wait_for(_health(parts), _HEALTH_S)
    except (ServiceError, TimeoutError):
        unknown = {"workers": None, "queue_depth": None}  # 0 would tell a scaler to take workers away
        body = {"status": "degraded", "models": dict.fromkeys(parts.catalog.models, unknown), **unknown}
    return json_response(body if known_caller(request) else {"status": body["status"]})


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
    """Queues, jobs by state, workers, calls. Each worker tells of itself: `/metrics/workers`."""
    return Response(await request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get(
    "/metrics/workers",
    summary="Where Prometheus finds the workers",
    response_model=None,
    dependencies=[needs(Scope.METRICS)],
)
async def worker_targets(request: Request) -> Response:
    """The living workers that serve metrics (`ML_METRICS_PORT`), as Prometheus's HTTP service discovery reads them. 503
    while Redis is away: Prometheus keeps what it knows."""
    newest = (await services(request).presence.workers()).newest
    told = [(worker, sign["metrics"]) for worker, sign in newest.items() if sign.get("metrics")]
    return json_response([{"targets": [place], "labels": {"__meta_ml_worker": worker}} for worker, place in told])
