"""A batch as HTTP shows it, from its record. Lines count from 0; each that has begun is a job (`keys.line_id`)."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Literal

import orjson
from pydantic import BaseModel, Field

from shared import keys
from shared.outcomes import readable
from shared.scripts_batches import BatchSeen
from shared.types import Instant, from_ms

_MEASURED_MS = 1000  # below this a rate is chance


class BatchState(enum.StrEnum):
    """queued -> running -> completed | canceled. Completed says that each line has an outcome, not which."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    CANCELED = "canceled"

    @property
    def terminal(self) -> bool:
        """No further line begins. Of a canceled batch some may still run: it has `finished_at` when they have ended."""
        return self in (BatchState.COMPLETED, BatchState.CANCELED)


class Counts(BaseModel):
    """Of a batch's lines, by state. Exact at any time; together they are the total."""

    total: int
    queued: int = Field(description="that have not begun to run")
    running: int
    succeeded: int
    failed: int = Field(description="among them those whose input did not fit")
    canceled: int


class Batch(BaseModel):
    """Many inputs for one version of one model."""

    id: str = Field(examples=["batch_0b0f6fd1f8f84f5c8d9f8bd9a4f3a0a1"])
    model: str
    version: str
    state: BatchState
    counts: Counts
    rate: float | None = Field(None, description="lines a second: lately while it runs, over all when it has ended")
    eta_s: float | None = Field(None, description="until its end, at this rate")
    created_at: Instant
    started_at: Instant | None = None
    finished_at: Instant | None = Field(None, description="of a canceled batch: when its last line has ended")
    deadline_at: Instant
    expires_at: Instant = Field(description="until when it and its results can be read")
    priority: Literal["high", "normal", "low"]
    labels: dict[str, str] = Field(default_factory=dict)
    results: str = Field(description="where the results are", examples=["/v1/batches/batch_0b0f.../results"])


class BatchPage(BaseModel):
    """Batches, the newest first."""

    data: list[Batch]
    next: str | None = Field(None, description="`cursor` of the next page; null: this is the last")


@readable()
def batch_view(batch_id: str, seen: BatchSeen) -> Batch:
    """Raises RecordUnreadable."""
    record = seen.record
    total, running, *ended = (
        int(record.get(name, 0)) for name in ("total", "running", "succeeded", "failed", "canceled")
    )
    left = total - sum(ended)
    finished = int(record.get("finished_at", 0))
    rate = _rate(record, finished or seen.now, ended=bool(finished))
    state = BatchState(record["state"])
    return Batch(
        id=batch_id,
        model=record["model"],
        version=record["version"],
        state=state,
        counts=Counts(
            total=total,
            queued=left - running,
            running=running,
            succeeded=ended[0],
            failed=ended[1],
            canceled=ended[2],
        ),
        rate=rate,
        eta_s=round(left / rate, 1) if rate and not state.terminal else None,
        created_at=_instant(record, "created_at"),
        started_at=from_ms(record.get("started_at")),
        finished_at=from_ms(finished),
        deadline_at=_instant(record, "deadline_at"),
        expires_at=_instant(record, "expires_at"),
        priority=keys.PRIORITY_WORDS[keys.nearest_priority(int(record["priority"]))],
        labels=orjson.loads(record.get("labels", "{}")),
        results=f"/v1/batches/{batch_id}/results",
    )


def _rate(record: dict[str, str], until: int, *, ended: bool) -> float | None:
    done, started = int(record.get("done", 0)), int(record.get("started_at", 0))
    if not (started and done):
        return None
    since, before = started, 0
    if not ended:
        which = "before" if "before_at" in record else "mark"
        since, before = int(record[f"{which}_at"]), int(record[which])
    elif until <= since:
        until = since + 1
    if until - since < _MEASURED_MS and not ended:
        return None
    return round((done - before) * 1000 / (until - since), 2)


def _instant(record: dict[str, str], name: str) -> datetime:
    found = from_ms(record[name])
    assert found is not None  # noqa: S101 - no record is without
    return found
