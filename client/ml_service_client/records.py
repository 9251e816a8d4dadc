"""Batches, files, models and webhooks, as types. Each keeps the JSON it was made of in `raw`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ml_service_client.types import Failure, Json, instant

BatchState = Literal["queued", "running", "completed", "canceled"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Lines of a batch, by state."""

    total: int = 0
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    canceled: int = 0

    @property
    def done(self) -> int:
        """Lines that have ended."""
        return self.succeeded + self.failed + self.canceled


@dataclass(frozen=True, slots=True)
class Batch:
    """Many inputs of one call, as the service told it last. `rate` is lines a second."""

    id: str
    model: str
    version: str | None
    state: BatchState
    counts: Counts
    rate: float | None = None
    eta_s: float | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline_at: datetime | None = None
    expires_at: datetime | None = None
    priority: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def done(self) -> bool:
        """All its lines have ended."""
        return self.state in ("completed", "canceled")

    @classmethod
    def of(cls, raw: Json) -> Batch:
        """From the JSON."""
        counts = raw.get("counts") or {}
        return cls(
            id=raw["id"],
            model=raw["model"],
            version=raw.get("version"),
            state=raw["state"],
            counts=Counts(**{name: counts.get(name, 0) for name in Counts.__slots__}),
            rate=raw.get("rate"),
            eta_s=raw.get("eta_s"),
            created_at=instant(raw.get("created_at")),
            started_at=instant(raw.get("started_at")),
            finished_at=instant(raw.get("finished_at")),
            deadline_at=instant(raw.get("deadline_at")),
            expires_at=instant(raw.get("expires_at")),
            priority=raw.get("priority"),
            labels=raw.get("labels") or {},
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a batch: what became of its input number `index` (from 0)."""

    index: int
    state: str
    output: Any = None
    error: Failure | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def succeeded(self) -> bool:
        """It has an output."""
        return self.state == "succeeded"

    @classmethod
    def of(cls, raw: Json) -> Line:
        """From the JSON."""
        return cls(raw["index"], raw["state"], raw.get("output"), Failure.of(raw.get("error")), raw)


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file. In an input it stands for its bytes: `{"image": file}`."""

    id: str
    bytes: int
    sha256: str
    content_type: str | None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, raw: Json) -> File:
        """From the JSON."""
        times = instant(raw.get("created_at")), instant(raw.get("expires_at"))
        return cls(raw["id"], raw["bytes"], raw["sha256"], raw.get("content_type"), *times, raw)


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the service. `ready`: how many living workers serve a version of it."""

    name: str
    task: str | None
    versions: tuple[str, ...]
    aliases: dict[str, str]
    traffic: dict[str, float]
    ready: int
    paused: bool = False
    limits: Json = field(default_factory=dict)
    input_schema: Json | None = None
    output_schema: Json | None = None
    parameters_schema: Json | None = None
    example: Any = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, raw: Json) -> Model:
        """From the JSON."""
        return cls(
            name=raw["id"],
            task=raw.get("task"),
            versions=tuple(one["version"] for one in raw.get("versions") or ()),
            aliases=raw.get("aliases") or {},
            traffic=raw.get("traffic") or {},
            ready=raw.get("ready", 0),
            paused=bool(raw.get("paused", False)),
            limits=raw.get("limits") or {},
            input_schema=raw.get("input_schema"),
            output_schema=raw.get("output_schema"),
            parameters_schema=raw.get("parameters_schema"),
            example=raw.get("example"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """What this key's webhooks are signed with; the one before is good until `previous_until`."""

    secret: str = field(repr=False)
    previous_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to deliver a webhook."""

    at: datetime | None
    status: int | None
    error: str | None
    ms: float | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook of a job or batch: `state` is due, delivered, failed or disabled."""

    id: str
    event: str
    url: str
    state: str
    attempts: tuple[Attempt, ...]
    next_at: datetime | None
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, raw: Json) -> Delivery:
        """From the JSON."""
        tries = tuple(
            Attempt(instant(one.get("at")), one.get("status"), one.get("error"), one.get("ms"))
            for one in raw.get("attempts") or ()
        )
        return cls(raw["id"], raw["event"], raw["url"], raw["state"], tries, instant(raw.get("next_at")), raw)
