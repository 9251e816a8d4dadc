"""A route without FastAPI's work for each call, for the routes that are called most."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class PlainRoute(APIRoute):
    """For an endpoint that takes the request and nothing else, and gives a Response: there are no parameters to solve
    and no answer to convert. It is documented as any other
    (https://fastapi.tiangolo.com/how-to/custom-request-and-route/)."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint
