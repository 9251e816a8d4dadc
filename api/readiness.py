"""What must be there for jobs to be queued, or for a model's jobs to run; and which of it is missing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from api.deps import Services
from api.submitter import Command, refusal
from shared import keys
from shared.errors import ServiceError, StoreUnavailable


@dataclass(frozen=True, slots=True)
class Check:
    """`code` (of an error) and `detail` say why it is not ready."""

    name: str
    code: str = ""
    detail: str = ""

    @property
    def ready(self) -> bool:
        """Nothing is missing."""
        return not self.code

    def told(self) -> dict[str, str]:
        """JSON data."""
        return {"state": "ok"} if self.ready else {"state": "missing", "detail": self.detail}


async def check(parts: Services, model: str | None) -> list[Check]:
    """`process`, `redis` and `registry`; with a model `model:NAME@VERSION` for each version that calls may get. Raises
    UnknownModel."""
    process = Check("process")
    if parts.draining:
        process = Check("process", StoreUnavailable.code, "this process is shutting down")
    checks = [process, *await asyncio.gather(_redis(parts), _registry(parts))]
    return checks + (await _model(parts, model) if model else [])


async def _redis(parts: Services) -> Check:
    try:
        await parts.submitter.one(Command("SET", keys.PROBE, "1", "PX", 10_000))
    except Exception as error:
        return _missing("redis", refusal(error))
    return Check("redis")


async def _registry(parts: Services) -> Check:
    try:
        await parts.registry.refresh()
    except ServiceError as error:
        return _missing("registry", error)
    return Check("registry")


async def _model(parts: Services, model: str) -> list[Check]:
    ref = parts.catalog.resolve(model)
    spec = parts.catalog.spec(ref.model)
    versions = [ref.version] if "@" in model else [v for v, share in spec.weights().items() if share > 0]
    try:
        workers = await parts.presence.workers()
    except StoreUnavailable as error:
        return [_missing(f"model:{ref.model}@{version}", error) for version in versions]
    return [
        Check(f"model:{ref.model}@{version}")
        if workers.serves(f"{ref.model}@{version}")
        else Check(f"model:{ref.model}@{version}", "model_unavailable", "no living worker serves it")
        for version in versions
    ]


def _missing(name: str, error: Exception) -> Check:
    if isinstance(error, ServiceError):
        return Check(name, error.code, error.message)
    return Check(name, StoreUnavailable.code, f"{type(error).__name__}: {error}")
