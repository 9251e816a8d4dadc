"""Routes without FastAPI's work for each call, for those that are called most."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]
ErrorHandlers = Mapping[Any, Callable[[Request, Any], Response | Awaitable[Response]]]


class PlainRoute(APIRoute):
    """For an endpoint that takes the request and parts of its path, as text, and gives a Response: there is nothing to
    solve or to convert. It is documented as any other
    (https://fastapi.tiangolo.com/how-to/custom-request-and-route/)."""

    def get_route_handler(self) -> Endpoint:
        """The endpoint itself. Raises TypeError for a route with dependencies, which nobody would ask."""
        if self.dependencies:
            raise TypeError(f"{self.path}: a plain route has no dependencies")

        async def call(request: Request) -> Response:
            answer: Response = await self.endpoint(request, **request.path_params)
            return answer

        return call


class PlainRoutes:
    """Pure ASGI, innermost: calls the endpoint of a PlainRoute with a fixed path at once. What FastAPI and
    Starlette put between (two routers, three exit stacks, two nests of error handlers) has nothing to do for it, and
    takes as long as the endpoint itself. Errors get the app's own handlers, by their class as Starlette finds them."""

    def __init__(self, app: ASGIApp, routers: Iterable[APIRouter], handlers: ErrorHandlers) -> None:
        self._app, self._handlers = app, handlers
        plain = (route for router in routers for route in router.routes if isinstance(route, PlainRoute))
        fixed = [route for route in plain if not route.param_convertors]
        self._routes = {(method, route.path): route for route in fixed for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's contract
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
            await response(scope, receive, send)
        except Exception as error:
            handler = next((self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers), None)
            if handler is None:
                raise
            answer = handler(request, error)
            response = answer if isinstance(answer, Response) else await answer
            await response(scope, receive, send)  # raises where one has begun already
