"""What the workers say of themselves in Redis: who lives, which versions they serve, what input these take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import orjson
import redis.asyncio

from api.cached import Cached
from api.inputs import InputCheck, NoCheck, SchemaCheck, TaskCheck
from api.submitter import LOST, Command, Submitter, refusal
from shared import keys
from shared.catalog import Catalog, Ref
from shared.tasks import BUILT_IN

_FRESH_S = 2.0
_SCHEMA_FRESH_S = 5.0


@dataclass(slots=True)
class Workers:
    """The living workers, and the cards of the versions they serve, or have failed to load a moment ago. `signs`: of
    the living, and of those that have failed to start a moment ago, with `seen_ms`."""

    workers: list[dict[str, Any]] = field(default_factory=list)
    cards: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by ref
    signs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def newest(self) -> dict[str, dict[str, Any]]:
        """The living by name: of one that was killed and has started again, which has two signs of life for a while,
        the later."""
        return {sign["worker"]: sign for sign in sorted(self.workers, key=lambda sign: sign.get("started_at", 0.0))}

    def serves(self, ref: str) -> int:
        """How many living workers serve this version now, or would load it for a job (it is lazy)."""
        lazy = [card for card in self.cards.get(ref, ()) if card.get("load") == "lazy"]
        return self.ready(ref) + sum(card.get("state") not in ("ready", "failed") for card in lazy)

    def ready(self, ref: str) -> int:
        """How many living workers serve this version now."""
        return sum(card.get("state") == "ready" for card in self.cards.get(ref, ()))


class Presence:
    """Reads what workers publish, at most every few seconds. For one event loop."""

    def __init__(self, client: redis.asyncio.Redis, submitter: Submitter, catalog: Catalog) -> None:
        self._client = client
        self._submitter = submitter
        self._catalog = catalog
        self._workers = Cached(_FRESH_S, self._read_workers)
        self._tasks: dict[str, TaskCheck] = {}
        self._schemas: dict[str, tuple[float, bytes, InputCheck]] = {}

    async def workers(self) -> Workers:
        """Not older than two seconds. Raises StoreUnavailable."""
        return await self._workers.get()

    async def input_check(self, ref: Ref) -> InputCheck:
        """How this version's input is checked. Raises UnknownModel, StoreUnavailable."""
        task = self._catalog.spec(ref.model).task
        if task is not None:
            if task not in self._tasks:
                self._tasks[task] = TaskCheck(BUILT_IN[task])
            return self._tasks[task]
        name = str(ref)
        read_at, raw, known = self._schemas.get(name, (0.0, b"", NoCheck()))
        if time.monotonic() - read_at < _SCHEMA_FRESH_S and name in self._schemas:
            return known
        found = await self._submitter.one(Command("GET", keys.SCHEMA + name)) or b""
        if found != raw:
            known = _schema_check(found)
        self._schemas[name] = (time.monotonic(), found, known)
        return known

    async def _read_workers(self) -> Workers:
        try:
            return await self._look()
        except LOST as error:
            raise refusal(error) from None

    async def _look(self) -> Workers:
        processes: Any = await self._client.zrange(keys.WORKERS, 0, -1, withscores=True)
        if not processes:
            return Workers()
        signs = await self._client.mget([f"{keys.WORKER}{process.decode()}" for process, _ in processes])
        pairs = zip(processes, signs, strict=True)
        found = [orjson.loads(raw) | {"seen_ms": seen_ms} for (_, seen_ms), raw in pairs if raw]
        result = Workers([worker for worker in found if worker["state"] != "failed"], signs=found)
        # A worker that was killed and has started again under its name has two signs of life for a while, and one card.
        places = list(dict.fromkeys((ref, worker["worker"]) for worker in found for ref in worker.get("refs", ())))
        if places:
            raws = await self._client.mget([keys.card_key(ref, worker) for ref, worker in places])
            for (ref, _), raw in zip(places, raws, strict=True):
                if raw:
                    result.cards.setdefault(ref, []).append(orjson.loads(raw))
        return result


def _schema_check(raw: bytes) -> InputCheck:
    if not raw:
        return NoCheck()
    schema = orjson.loads(raw)
    try:
        return SchemaCheck(schema["input_schema"], schema.get("parameters_schema"))
    except (KeyError, TypeError, ValueError):  # left by a handler whose schema is none: the worker checks
        return NoCheck()
