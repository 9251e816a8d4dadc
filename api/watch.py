"""What the service does, once a second, for a page that draws it: Server-Sent Events, as api/events.py sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from api.cached import Cached
from api.events import HEADERS, LONGEST_S, RETRY_MS, write
from api.measure import Measures
from api.schemas_operators import Seen, VersionSeen
from api.sight import Sights
from api.waiter import until_gone
from api.workers import told_workers
from shared import keys

EVERY_S = 1.0


class Watch:
    """One look a second for all who watch on this event loop, and none while nobody does."""

    def __init__(self, sights: Sights, measures: Measures, draining: Callable[[], bool]) -> None:
        self._sights, self._measures, self._draining = sights, measures, draining
        self._event = Cached(EVERY_S * 0.9, self._look)

    @property
    def over(self) -> bool:
        """The process takes nothing new: come again, to another."""
        return self._draining()

    async def event(self) -> bytes:
        """The newest. While Redis is away it says so (`up`), and no more."""
        return await self._event.get()

    async def _look(self) -> bytes:
        sight = await self._sights.look()
        versions = [
            VersionSeen(
                model=model,
                version=version,
                **counted,
                limit=sight.limits[model, version],
                oldest_s=round(sight.oldest.get((model, version), 0.0), 3),
                lines_waiting=sight.lines.get((model, version), 0),
                workers=sight.workers.serves(f"{model}@{version}"),
                paused=sight.paused.get(model, False),
                latency=sight.latencies[model, version].counts,
            )
            for (model, version), counted in sight.counters.items()
            if (model, version) in sight.latencies and (model, version) in sight.limits  # it may come between two reads
        ]
        seen = Seen(
            at=datetime.now(UTC),
            up=sight.up,
            bounds_ms=list(keys.LATENCY_BOUNDS_MS),
            versions=versions,
            workers=told_workers(sight.workers),
            refusals=await asyncio.to_thread(self._measures.refused),  # of processes that count together: by files
            dead_letters=sight.letters,
            webhooks_waiting=None if sight.webhooks is None else sight.webhooks.waiting,
        )
        return f"event: seen\ndata: {seen.model_dump_json()}\n\n".encode()


class WatchStream(Response):
    """One client's stream."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Returns when the client has gone, the process drains, or LONGEST_S are over. Who reads slowly gets fewer
        events, never old ones. Raises what goes wrong with a look; before the first nothing was sent."""
        event = await self._watch.event()
        gone = asyncio.ensure_future(until_gone(receive))
        end = asyncio.get_running_loop().time() + LONGEST_S
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
            await write(send, f"retry: {RETRY_MS}\n\n".encode())
            while not (gone.done() or self._watch.over or asyncio.get_running_loop().time() > end):
                await write(send, event)
                await asyncio.wait([gone], timeout=EVERY_S)
                event = await self._watch.event()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
