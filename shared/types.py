"""The words of the product as types: what a job is, for API and worker alike."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainSerializer, WithJsonSchema

from shared.errors import Fault
from shared.keys import PriorityName


class State(enum.StrEnum):
    """queued -> running -> succeeded | failed | canceled. Why it failed is in `error.code`."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def terminal(self) -> bool:
        """True once the outcome stands; it never changes after."""
        return self not in (State.QUEUED, State.RUNNING)


def rfc3339(at: datetime) -> str:
    """In UTC, always with its milliseconds: such texts sort as the instants do."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


Instant = Annotated[
    datetime,
    PlainSerializer(rfc3339, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An instant as HTTP shows it."""


class Problem(BaseModel):
    """Why a job did not succeed."""

    code: str = Field(examples=["invalid_input"])
    message: str
    errors: list[Fault] | None = None


class Timing(BaseModel):
    """Where a job's time went, and in what company it ran."""

    queue_ms: float | None = Field(None, description="from accepted to the start of its (first) batch")
    prepare_ms: float | None = None
    predict_ms: float | None = Field(None, description="of the (longest) batch it ran in")
    batch_size: int | None = Field(None, description="items of that batch")
    worker: str | None = None


class Wait(BaseModel):
    """Why a job is queued still."""

    code: Literal["worker", "model", "turn", "start", "paused"] = Field(
        description="worker: none serves it; model: it is not loaded; turn: others are before it; start: its eta; "
        "paused: an operator has paused its model"
    )
    message: str


class Progress(BaseModel):
    """How far a job is, by the last that was told of it."""

    fraction: float | None = Field(None, description="0 to 1, over all its items")
    message: str | None = None
    at: Instant


class Job(BaseModel):
    """A job as HTTP shows it."""

    id: str
    model: str
    version: str
    fallback_for: str | None = Field(None, description="the model that was asked for, where `model` is its fallback")
    state: State
    output: Any = None
    output_url: str | None = Field(None, description="where the output is read that is too large to stand here")
    error: Problem | None = None
    errors: list[Fault] | None = Field(None, description="failed positions of a job with `parameters.partial`")
    created_at: Instant
    started_at: Instant | None = None
    finished_at: Instant | None = None
    deadline_at: Instant | None = None
    waiting_for: Wait | None = Field(None, description="of a queued job")
    progress: Progress | None = Field(None, description="as far as its handler, or its items, tell")
    attempt: int = Field(0, description="how often a worker started it; above 1 after a redelivery")
    priority: PriorityName = "normal"
    batch: str | None = Field(None, description="the batch that it is a line of")
    timing: Timing = Timing()
    labels: dict[str, str] = Field(default_factory=dict)
    letter: str | None = Field(None, description="its dead letter, while there is one: see /v1/dead")
    retried_from: str | None = Field(None, description="the job that this one is a retry of, from the dead letters")
    request_id: str | None = Field(None, description="`X-Request-ID` of the request that made it, as in the logs")


@dataclass(slots=True)
class Outcome:
    """How a job ended, as the worker says it."""

    state: State
    output: Any = None
    code: str | None = None
    message: str = ""
    faults: list[Fault] = field(default_factory=list)
    timing: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0  # of all its items, where the model counts any
    stored: str = ""  # reference of the output in the payload store, where it has `stored_bytes`
    stored_bytes: int = 0


def from_ms(value: int | str | bytes | None) -> datetime | None:
    """Redis TIME in ms to an instant in UTC."""
    return datetime.fromtimestamp(int(value) / 1000, UTC) if value else None
