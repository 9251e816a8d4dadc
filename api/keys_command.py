"""`python -m api keys`: API keys, from where Redis is reached (ML_REDIS_URL, or that of the `ml-service up` that runs
here); so the first one is made. With a key of the scope admin `ml-service keys` does the same over HTTP."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from api.keys import KeyService
from api.submitter import Submitter
from shared.api_keys import ApiKey, Scope
from shared.errors import ServiceError
from shared.rates import Rates
from shared.settings import Settings
from shared.store import acheck_server, aconnect

_DAY_S = 86_400


def keys_command(settings: Settings, arguments: list[str]) -> int:
    """The exit code: 0 done, 1 could not. Usage faults end the process with 2."""
    options = _parser().parse_args(arguments)
    try:
        return asyncio.run(_with_keys(settings, lambda service: options.run(service, options)))
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            _say(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
    except ServiceError as error:
        _say(error.message)
    return 1


async def _with_keys(settings: Settings, do: Callable[[KeyService], Awaitable[None]]) -> int:
    client = aconnect(settings)
    submitter = Submitter(client)
    try:
        await acheck_server(client)
        await do(KeyService(submitter))
    finally:
        await submitter.close()
        with suppress(OSError):
            await client.aclose()
    return 0


async def _create(service: KeyService, options: argparse.Namespace) -> None:
    key = ApiKey(
        name=options.name,
        scopes=frozenset(options.scope or [Scope.SUBMIT, Scope.READ]),
        models=frozenset(options.model) if options.model else None,
        weight=options.weight,
        limits=Rates(
            requests=options.requests, items=options.items, bytes=options.bytes, concurrent=options.concurrent
        ),
        expires_at=_expiry(options.expires_days),
    )
    made = await service.create(key)
    _say(f"id      {made.key.id}\nscopes  {', '.join(sorted(made.key.scopes))}")
    _say(f"secret  {made.secret}\nKeep it: it is not stored, and cannot be shown again.")


async def _list(service: KeyService, _: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    for key in await service.all():
        end = "never expires" if key.expires_at is None else f"expires {key.expires_at:%Y-%m-%d %H:%M} UTC"
        end = "expired" if key.expired(now) else end
        models = ", ".join(sorted(key.models)) if key.models is not None else "all models"
        _say(f"{key.id}  {key.name}  {', '.join(sorted(key.scopes))}  {models}  {end}")


async def _rotate(service: KeyService, options: argparse.Namespace) -> None:
    made = await service.rotate(
        options.id, grace_s=options.grace_days * _DAY_S, expires_at=_expiry(options.expires_days)
    )
    _say(f"secret  {made.secret}\nThe old one works for {options.grace_days:g} days more.")


async def _revoke(service: KeyService, options: argparse.Namespace) -> None:
    await service.revoke(options.id)
    _say(f"{options.id} opens nothing any more")


def _expiry(days: float | None) -> datetime | None:
    return None if days is None else datetime.now(UTC) + timedelta(days=days)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    commands = parser.add_subparsers(required=True).add_parser("keys", help="API keys").add_subparsers(required=True)
    create = commands.add_parser("create", help="make a key and show its secret, once")
    create.add_argument("--name", required=True, help="whose it is, for people")
    create.add_argument("--scope", action="append", type=Scope, choices=list(Scope), help="default: submit and read")
    create.add_argument("--model", action="append", help="that it may use; default: all")
    create.add_argument("--weight", type=int, default=1, help="its share beside other keys, 1 to 100")
    create.add_argument("--requests", help="as in 100/minute")
    create.add_argument("--items", help="of all its jobs, as in 10000/hour")
    create.add_argument("--bytes", help="of their inputs, as in 50MB/minute")
    create.add_argument("--concurrent", type=int, help="jobs that have not ended")
    create.set_defaults(run=_create)
    commands.add_parser("list", help="all keys, without their secrets").set_defaults(run=_list)
    rotate = commands.add_parser("rotate", help="a new secret for a key; the old one works for a while")
    rotate.add_argument("id")
    rotate.add_argument("--grace-days", type=float, default=1.0)
    rotate.set_defaults(run=_rotate)
    revoke = commands.add_parser("revoke", help="end a key at once")
    revoke.add_argument("id")
    revoke.set_defaults(run=_revoke)
    for one in (create, rotate):
        one.add_argument("--expires-days", type=float, help="default: never, or as before")
    return parser


def _say(text: str) -> None:
    print(text)  # noqa: T201  # to the person who typed it
