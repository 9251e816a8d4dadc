"""The worker processes as operators see them, and the word to one of them that it is to leave."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from api.presence import Presence, Workers
from api.schemas_operators import Worker, WorkerModel
from api.submitter import Command, Submitter
from shared import keys
from shared.errors import UnknownWorker
from shared.logs import Event, get_logger

logger = get_logger("api")


class WorkerService:
    """For one event loop. All methods raise StoreUnavailable."""

    def __init__(self, presence: Presence, submitter: Submitter) -> None:
        self._presence, self._submitter = presence, submitter

    async def all(self) -> list[Worker]:
        """By name; of a name with two processes, the older first."""
        return told_workers(await self._presence.workers())

    async def drain(self, name: str) -> list[str]:
        """Tell it, with its next sign of life, to finish its batch, give the rest back and leave. `name`, or the id of
        one process; the ids. Raises UnknownWorker."""
        workers = await self._presence.workers()
        ids = [sign["process"] for sign in workers.workers if name in (sign["worker"], sign["process"])]
        if not ids:
            known = ", ".join(sorted({sign["worker"] for sign in workers.workers}))
            raise UnknownWorker(f"no living worker is called {name[:128]!r}; there are: {known or 'none'}")
        for one in ids:
            await self._submitter.one(Command("SET", keys.DRAIN + one, "1", "EX", keys.DRAIN_TTL_S))
        logger.info(Event.WORKER_DRAINED, worker=name, processes=ids)
        return ids


def told_workers(workers: Workers) -> list[Worker]:
    """As `WorkerService.all` answers."""
    found = [_worker(sign, workers) for sign in workers.signs]
    return sorted(found, key=lambda one: (one.name, one.started_at or one.heartbeat_at))


def _worker(sign: dict[str, Any], workers: Workers) -> Worker:
    name = sign["worker"]
    cards = [card for ref in sign.get("refs", ()) for card in workers.cards.get(ref, ()) if card["worker"] == name]
    started_at = sign.get("started_at")
    told = ("host", "pid", "device", "gpu", "memory_bytes", "device_memory", "busy", "jobs_per_s", "batch_size", "held")
    return Worker(
        id=sign["process"],
        name=name,
        state=sign["state"],
        models=[WorkerModel(model=card["model"], version=card["version"], state=card["state"]) for card in cards],
        started_at=None if started_at is None else datetime.fromtimestamp(started_at, UTC),
        heartbeat_at=datetime.fromtimestamp(sign["seen_ms"] / 1000, UTC),
        **{field: sign.get(field) for field in told},
    )
