"""What a webhook says: the job (or batch) as it was at its event, in one form that is made once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from api.errors import job_url
from api.submitter import Submitter
from shared import scripts
from shared.batches import batch_view
from shared.errors import UnknownBatch, UnknownJob
from shared.outcomes import job_view
from shared.scripts_batches import BatchSeen, look_at_batch
from shared.scripts_webhooks import Taken
from shared.types import State, rfc3339

_LARGE = 100_000  # bytes of an outcome that is not read in a moment

Data = Callable[[Taken], Awaitable[dict[str, Any]]]
"""What stands in `data`. Raises UnknownJob or UnknownBatch (it has expired), RecordUnreadable, StoreUnavailable."""


class Bodies:
    """Makes them, for one event loop. `most`: bytes of an output that stands in it."""

    def __init__(self, submitter: Submitter, *, most: int) -> None:
        self._submitter, self._most = submitter, most
        self.data: dict[str, Data] = {"job": self._job, "batch": self._batch}

    async def compose(self, taken: Taken) -> bytes:
        """Raises as Data."""
        found = await self.data[taken.kind](taken)
        at = rfc3339(datetime.fromtimestamp(taken.at / 1000, UTC))
        return orjson.dumps({"type": f"{taken.kind}.{taken.event}", "timestamp": at, "data": found})

    async def _job(self, taken: Taken) -> dict[str, Any]:
        seen: scripts.Seen = await self._submitter.one(scripts.watch(taken.of))
        if not seen.record:
            raise UnknownJob("the job had expired before its webhook could be sent")
        if len(seen.meta) > _LARGE:
            return await asyncio.to_thread(self._view, taken, seen)
        return self._view(taken, seen)

    async def _batch(self, taken: Taken) -> dict[str, Any]:
        seen: BatchSeen = await self._submitter.one(look_at_batch(taken.of))
        if not seen.record:
            raise UnknownBatch("the batch had expired before its webhook could be sent")
        return batch_view(taken.of, seen).model_dump(mode="json")

    def _view(self, taken: Taken, seen: scripts.Seen) -> dict[str, Any]:
        if taken.event == "running":  # it may have ended since
            seen = scripts.Seen(seen.record | {"state": State.RUNNING}, b"")
            seen.record.pop("finished_at", None)
        job: dict[str, Any] = job_view(taken.of, seen.record, seen.meta).model_dump(mode="json")
        if len(seen.meta) > self._most and len(orjson.dumps(job["output"])) > self._most:
            job |= {"output": None, "output_url": f"{job_url(taken.of)}/output"}
        return job
