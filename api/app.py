"""create_app: the parts, the middleware, the routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from api import VERSION
from api.auth import OPEN, Authenticate, Keyring
from api.caps import body_cap
from api.chat import ChatRequest
from api.deps import make_services
from api.docs import describe
from api.errors import add_error_handlers
from api.inflate import Inflate
from api.measure import Measure
from api.metrics import Metrics
from api.middleware import BodyCap, PlainPath, RequestId
from api.observe import Observe
from api.plain_route import PlainRoutes
from api.routes import (
    batches,
    chat,
    console,
    dead,
    embeddings,
    events,
    files,
    inference,
    jobs,
    keys,
    models,
    oip,
    operators,
    ops,
    output,
    registry,
    sagemaker,
    vertex,
    watch,
    webhooks,
)
from api.schemas import OpenAIError
from api.schemas_operators import Seen
from api.sight import Sights
from api.watch import Watch
from shared import tracing
from shared.catalog import load_catalog
from shared.garbage import settle_memory
from shared.logs import get_logger
from shared.loopback import needs_keys
from shared.model_spec import ModelsFile, ModelSpec, VersionSpec
from shared.settings import Settings

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

logger = get_logger("api")

_ABOUT = """Inference through a queue: accepted is never lost, and batched at full speed.

`POST /inference` waits for the output; `POST /v1/jobs` queues and is polled at `GET /v1/jobs/{id}`.
Errors are `application/problem+json` (RFC 9457) with a `code` to act on and JSON pointers into your body."""

# FastAPI traces by itself where OpenTelemetry is set up, a second time beside api/observe.py, and with what exceptions
# say, which may quote an input. (Older versions know of no such thing, and ignore this.)
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


# Garbage is small here, and most of it falls by its counts: it is looked for after some hundred calls, not after each.
_YOUNG = 20_000


def create_app(settings: Settings, *, host: str | None = None) -> FastAPI:
    """`host`: the address that it will listen on, where that is not the settings'. Raises ConfigError
    for a models file that is wrong. Whether the store will do, api/server.py asks."""
    auth = needs_keys(settings.auth, host or settings.host)
    parts = make_services(settings, load_catalog(settings.models_file), auth=auth)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        parts.start()
        settle_memory(young=_YOUNG)
        try:
            yield
        finally:
            await parts.stop()

    app = FastAPI(
        title="ml-service",
        version=VERSION,
        description=_ABOUT,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
    )
    app.state.services = parts
    sights = Sights(parts.submitter, parts.catalog, parts.presence, parts.pauses)
    app.state.metrics = Metrics(sights, parts.catalog, parts.measures)
    app.state.watch = Watch(sights, parts.measures, draining=lambda: parts.draining)
    own = (
        inference,
        jobs,
        events,
        output,
        batches,
        files,
        models,
        registry,
        operators,
        ops,
        watch,
        dead,
        keys,
        webhooks,
    )
    faces = (*own, embeddings, chat, oip, sagemaker)
    # The last added is the outermost.
    app.add_middleware(PlainRoutes, routers=[face.router for face in faces], handlers=app.exception_handlers)
    app.add_middleware(Inflate, most=body_cap(settings))
    app.add_middleware(BodyCap, most=body_cap(settings))
    also_open = (settings.vertex_health_route, *console.paths())
    find = Keyring(parts.submitter).find
    app.add_middleware(Authenticate, find=find, enabled=parts.auth, also_open=also_open)
    app.add_middleware(PlainPath)
    app.add_middleware(RequestId, draining=lambda: parts.draining)
    app.add_middleware(Measure, measures=parts.measures)
    if settings.access_log or tracing.on():
        app.add_middleware(Observe, access_log=settings.access_log)
    for face in faces:
        app.include_router(face.router)
    app.include_router(vertex.make_router(settings))
    app.include_router(console.router)
    app.mount("/console", console.Files())
    add_error_handlers(app)
    bodies = (ModelsFile, ModelSpec, VersionSpec, registry.Traffic, keys.KeyRequest, keys.RotateRequest)
    others = (webhooks.Rotation, embeddings.EmbeddingsRequest, ChatRequest, OpenAIError, Seen)
    describe(app, *bodies, *others, open_paths=OPEN)
    return app
