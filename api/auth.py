"""Who calls: the API key of a request, looked up by its digest. Everything but a few open paths needs one, where keys
are on; what it may do, each router says by `needs`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from api.errors import error_problem
from api.submitter import Command, Submitter
from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from shared.errors import Forbidden, ServiceError, StoreUnavailable, Unauthorized

# Probes of orchestrators, and the description of the interface, which is public.
OPEN = frozenset({"/livez", "/readyz", "/health", "/openapi.json"})
OPEN |= {"/v2/health/live", "/v2/health/ready", "/ping"}

_FRESH_S = 1.0  # a key that is revoked or changed is known so for at most as long
_MOST_CACHED = 10_000  # keys and attempts; who guesses must not fill the memory
_LONGEST = 512


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request. `key` None: anybody, where keys are off."""

    key: ApiKey | None = None

    @property
    def owner(self) -> str:
        """Of the jobs it makes."""
        return self.key.id if self.key else keys.ANONYMOUS

    def owns(self, owner: str | None) -> bool:
        """Whether it may see what belongs to `owner`. Where keys are off everybody may see all."""
        return self.key is None or self.key.id == owner

    def may(self, scope: Scope) -> bool:
        """Whether it has this scope."""
        return self.key is None or self.key.may(scope)

    def may_use(self, model: str) -> bool:
        """Whether a model (by name, without a version) is one of its own."""
        return self.key is None or self.key.models is None or model in self.key.models


ANYBODY = Caller()


class Keyring:
    """The keys in Redis, each remembered for a second. For one event loop."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter
        self._seen: dict[str, tuple[float, ApiKey | None]] = {}

    async def find(self, secret: str) -> ApiKey | None:
        """None: no such key, or expired. Raises StoreUnavailable."""
        if not 1 <= len(secret) <= _LONGEST:
            return None
        name, now = digest(secret), time.monotonic()
        at, key = self._seen.get(name, (float("-inf"), None))
        if now - at > _FRESH_S:
            key = _read(await self._submitter.one(Command("HGET", keys.KEYS, name)))
            if len(self._seen) >= _MOST_CACHED:
                self._seen.clear()
            self._seen[name] = (now, key)
        return None if key is None or key.expired(datetime.now(UTC)) else key


def _read(found: bytes | None) -> ApiKey | None:
    try:
        return ApiKey.model_validate_json(found) if found else None
    except ValidationError:  # of a newer release, or a hand's: it opens nothing
        return None


class Authenticate:
    """Pure ASGI: puts the Caller into the request's state, or answers 401 before the body is read."""

    def __init__(
        self,
        app: ASGIApp,
        find: Callable[[str], Awaitable[ApiKey | None]],
        enabled: bool,
        also_open: Collection[str] = (),
    ) -> None:
        self._app, self._find, self._enabled = app, find, enabled
        self._open = OPEN.union(also_open)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's contract
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        if not self._enabled:
            state["caller"] = ANYBODY
        else:
            try:
                state["caller"] = await self._caller(Headers(scope=scope), scope["path"])
            except ServiceError as error:
                answer = error_problem(Request(scope), error)
                headers = Headers(scope=scope)
                if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
                    answer.headers["Connection"] = "close"  # the body is not read
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _caller(self, headers: Headers, path: str) -> Caller | None:
        secret = _secret(headers)
        if path in self._open:
            return await self._known(secret)
        if secret is None:
            raise Unauthorized
        key = await self._find(secret)
        if key is None:
            raise Unauthorized("this API key is not known: it is wrong, was revoked, or has expired")
        return Caller(key)

    async def _known(self, secret: str | None) -> Caller | None:
        """Open paths tell who shows a key more, and hang on no key."""
        try:
            key = await self._find(secret) if secret else None
        except StoreUnavailable:
            return None
        return Caller(key) if key else None


def _secret(headers: Headers) -> str | None:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    return headers.get("x-api-key")


def caller_of(request: Request, scope: Scope | None = None) -> Caller:
    """Of a route that is not open. Raises Forbidden for a key without `scope`."""
    found = request.scope["state"]["caller"]
    assert isinstance(found, Caller)  # noqa: S101 - Authenticate has seen to it
    if scope is not None and not found.may(scope):
        raise Forbidden(f"this API key has no scope {scope.value!r}")
    return found


def known_caller(request: Request) -> Caller | None:
    """Of any route; None: nobody has shown a key on an open path, where keys are on."""
    found: Caller | None = request.scope["state"]["caller"]
    return found


def needs(scope: Scope) -> Dependency:
    """A dependency of routes. Raises Forbidden for a key without this scope. (FastAPI takes as long to solve it as our
    middleware takes in all: the routes of jobs ask `caller_of` themselves.)"""

    async def check(request: Request) -> None:
        caller_of(request, scope)

    found: Dependency = Depends(check)
    return found
