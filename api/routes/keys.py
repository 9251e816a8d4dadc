"""`/v1/keys`: API keys for operators; `/v1/usage`: what the caller's own key has used."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from api.admin import admin_only
from api.answers import json_response
from api.auth import caller_of, needs
from api.bodies import read_model
from api.deps import services
from api.docs import json_body, links, problems
from api.keys import Made, today
from api.schemas import KeyList, KeyTold, NewKey, Seconds, Usage
from shared.api_keys import ApiKey, Scope
from shared.errors import InvalidInput
from shared.rates import Rates

router = APIRouter()

_MOST_DAYS = 400
_DAYS = {
    "parameters": [
        {"name": name, "in": "query", "schema": {"type": "string", "format": "date"}, "description": f"{name} day"}
        for name in ("first", "last")
    ]
}
_LINKS = links(
    {"key_id": "id"}, "POST /v1/keys/{key_id}/rotate", "GET /v1/keys/{key_id}/usage", "DELETE /v1/keys/{key_id}"
)


def _text(value: Any) -> Any:
    if isinstance(value, int | float):
        raise ValueError("must be an instant as text, as in 2027-01-31T12:00:00Z")  # pydantic would read Unix seconds
    return value


GivenInstant = Annotated[AwareDatetime, BeforeValidator(_text)]


class KeyRequest(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=128)]
    scopes: Annotated[list[Scope], Field(min_length=1)] = [Scope.SUBMIT, Scope.READ]
    models: list[Annotated[str, Field(min_length=1, max_length=128)]] | None = None
    weight: int = Field(1, ge=1, le=100)
    limits: Rates = Rates()
    expires_at: GivenInstant | None = None


class RotateRequest(BaseModel):
    """How long the old secret works beside the new one."""

    model_config = ConfigDict(extra="forbid")

    grace_s: Seconds = Field(86_400, ge=0, le=90 * 86_400)
    expires_at: GivenInstant | None = None


@router.get(
    "/v1/keys",
    summary="API keys",
    response_model=None,
    dependencies=[Depends(admin_only)],
    responses={200: {"model": KeyList}, **problems(401, 403, 503)},
)
async def list_keys(request: Request) -> Response:
    """All of them, without their secrets, which are not stored."""
    now = datetime.now(UTC)
    return json_response(KeyList(data=[told(key, now) for key in await services(request).keys.all()]))


@router.post(
    "/v1/keys",
    summary="Make an API key",
    status_code=201,
    response_model=None,
    dependencies=[Depends(admin_only)],
    responses={201: {"model": NewKey, "links": _LINKS}, **problems(400, 401, 403, 422, 503)},
    openapi_extra=json_body(KeyRequest),
)
async def create(request: Request) -> Response:
    """The answer has the secret, this once."""
    asked = read_model(KeyRequest, await request.body())
    made = await services(request).keys.create(
        ApiKey(**{name: getattr(asked, name) for name in KeyRequest.model_fields})
    )
    return _made(made, 201)


@router.post(
    "/v1/keys/{key_id}/rotate",
    summary="A new secret for a key",
    response_model=None,
    dependencies=[Depends(admin_only)],
    responses={200: {"model": NewKey}, **problems(400, 401, 403, 404, 422, 503)},
    openapi_extra=json_body(RotateRequest, required=False),
)
async def rotate(request: Request, key_id: str) -> Response:
    """The old secret works for `grace_s` more (a day, where the body says nothing). Jobs, limits and usage stay."""
    asked = read_model(RotateRequest, await request.body(), optional=True)
    return _made(await services(request).keys.rotate(key_id, grace_s=asked.grace_s, expires_at=asked.expires_at), 200)


@router.delete(
    "/v1/keys/{key_id}",
    summary="Revoke an API key",
    status_code=204,
    response_model=None,
    dependencies=[Depends(admin_only)],
    responses={204: {"description": "It opens nothing any more, within a second"}, **problems(401, 403, 404, 503)},
)
async def revoke(request: Request, key_id: str) -> Response:
    """With all its secrets. What it has submitted goes on, and nobody can read it."""
    await services(request).keys.revoke(key_id)
    return Response(status_code=204)


@router.get(
    "/v1/keys/{key_id}/usage",
    summary="What a key has used",
    response_model=None,
    dependencies=[Depends(admin_only)],
    responses={200: {"model": Usage}, **problems(401, 403, 422, 503)},
    openapi_extra=_DAYS,
)
async def usage_of(request: Request, key_id: str) -> Response:
    """By day (UTC) and version, from `?first=2026-01-01` to `?last=`; the last 30 days where they are not given."""
    return await _usage(request, key_id)


@router.get(
    "/v1/usage",
    summary="What your key has used",
    response_model=None,
    dependencies=[needs(Scope.READ)],
    responses={200: {"model": Usage}, **problems(401, 403, 422, 503)},
    openapi_extra=_DAYS,
)
async def usage(request: Request) -> Response:
    """As for operators, of the key that asks."""
    return await _usage(request, caller_of(request).owner)


async def _usage(request: Request, key_id: str) -> Response:
    last = _day(request, "last") or today()
    first = _day(request, "first") or last - timedelta(days=29)
    if not 0 <= (last - first).days < _MOST_DAYS:
        raise InvalidInput(f"first must be before last, and both within {_MOST_DAYS} days")
    used = await services(request).keys.usage(key_id, first, last)
    return json_response(Usage.model_validate({"key": key_id, "first": first, "last": last, "data": used}))


def _day(request: Request, name: str) -> date | None:
    given = request.query_params.get(name)
    try:
        return date.fromisoformat(given) if given is not None else None
    except ValueError:
        raise InvalidInput(f"{name} must be a day, as in 2026-01-31, not {given[:40] if given else ''!r}") from None


def told(key: ApiKey, now: datetime) -> KeyTold:
    """A key as it is listed."""
    return KeyTold(expired=key.expired(now), **key.model_dump())


def _made(made: Made, status: int) -> Response:
    body = NewKey(secret=made.secret, **told(made.key, datetime.now(UTC)).model_dump())
    return json_response(body, status, {"Cache-Control": "no-store"})
