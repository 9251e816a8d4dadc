"""Plain routes are called past FastAPI, and nobody can tell from outside."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from api.plain_route import PlainRoute, PlainRoutes


class _Refused(Exception):
    pass


class _MoreRefused(_Refused):
    pass


def _app() -> FastAPI:
    router = APIRouter(prefix="/v1", route_class=PlainRoute)

    @router.post("/run")
    async def run(request: Request) -> Response:
        return Response(await request.body(), headers={"route": request.scope["route"].path})

    @router.post("/wrong")
    async def wrong(request: Request) -> Response:
        raise _MoreRefused("no")

    @router.get("/of/{name}")
    async def of(request: Request, name: str) -> Response:
        return Response(name)

    app = FastAPI()

    async def refused(request: Request, error: Exception) -> Response:
        return Response(f"{type(error).__name__}: {error}", 418)

    app.add_middleware(PlainRoutes, routers=[router], handlers=app.exception_handlers)
    app.include_router(router)
    app.add_exception_handler(_Refused, refused)
    return app


async def _ask(method: str, path: str, **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return await client.request(method, path, **more)


async def test_the_endpoint_has_the_request_and_its_route() -> None:
    answer = await _ask("POST", "/v1/run", content=b"abc")
    assert (answer.status_code, answer.content, answer.headers["route"]) == (200, b"abc", "/v1/run")


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("POST", "/v1/wrong", 418, "_MoreRefused: no"),
        ("GET", "/v1/of/this", 200, "this"),
        ("GET", "/v1/run", 405, '{"detail":"Method Not Allowed"}'),
        ("POST", "/v1/run/", 307, ""),
        ("POST", "/v1/none", 404, '{"detail":"Not Found"}'),
    ],
    ids=["the app's error handler", "parts of the path", "method", "slash", "none"],
)
async def test_all_else_is_as_ever(method: str, path: str, status: int, text: str) -> None:
    answer = await _ask(method, path)
    assert (answer.status_code, answer.text) == (status, text)


def test_a_route_with_dependencies_is_none() -> None:
    router = APIRouter(route_class=PlainRoute)

    async def endpoint(request: Request) -> Response:
        return Response()

    with pytest.raises(TypeError, match="/guarded: a plain route has no dependencies"):
        router.get("/guarded", dependencies=[Depends(endpoint)])(endpoint)
