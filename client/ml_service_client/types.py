"""Jobs and answers as types. Each keeps the JSON it was made of in `raw`, with fields newer than this client."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from ml_service_client.errors import Fault, JobError

Json = dict[str, Any]
JobState = Literal["queued", "running", "succeeded", "failed", "canceled"]

_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):?(\d\d))?")


def instant(text: str | None) -> datetime | None:
    """RFC 3339, with any number of digits behind the point (Python 3.10 reads three or six)."""
    if text is None:
        return None
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise ValueError(f"not an instant: {text!r}")
    day, time, fraction, sign, hours, minutes = found.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    read = datetime.fromisoformat(f"{day}T{time}.{(fraction or '0')[:6]:0<6}")
    return read.replace(tzinfo=timezone(-offset if sign == "-" else offset))


def faults(given: list[Json] | None) -> tuple[Fault, ...]:
    """The service's `errors`."""
    return tuple(Fault(one.get("pointer", ""), one.get("code", ""), one.get("message", "")) for one in given or ())


class Answer(dict[str, Any]):
    """What `POST /inference` answered: the very dict (a backend may return it as JSON), and its fields by name."""

    @property
    def job_id(self) -> str:
        """The job that did it."""
        return str(self["job_id"])

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self["model"])

    @property
    def version(self) -> str:
        """The version that the traffic weights, or you, chose."""
        return str(self["version"])

    @property
    def fallback_for(self) -> str | None:
        """The model that you asked for, where `model` is its fallback; else None."""
        return self.get("fallback_for")

    @property
    def output(self) -> Any:
        """What the model returned."""
        return self["output"]

    @property
    def timing(self) -> Timing:
        """Where the time went."""
        return Timing.of(self.get("timing"))

    @property
    def errors(self) -> tuple[Fault, ...]:
        """Failed positions of a call with `parameters={"partial": True}`."""
        return faults(self.get("errors"))


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a job's time went, and in what company it ran."""

    queue_ms: float | None = None
    prepare_ms: float | None = None
    predict_ms: float | None = None
    batch_size: int | None = None
    worker: str | None = None

    @classmethod
    def of(cls, raw: Json | None) -> Timing:
        """From the JSON."""
        return cls(**{name: (raw or {}).get(name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job, or a line of a batch, did not succeed."""

    code: str
    message: str
    errors: tuple[Fault, ...] = ()

    @classmethod
    def of(cls, raw: Json | None) -> Failure | None:
        """From the JSON, where there is one."""
        if raw is None:
            return None
        return cls(raw.get("code", "unknown"), raw.get("message", ""), faults(raw.get("errors")))


@dataclass(frozen=True, slots=True)
class Wait:
    """What a queued job waits for: `worker`, `model`, `turn`, `start`, `paused`."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running job's handler told last; `fraction` from 0 to 1."""

    fraction: float | None
    message: str | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the service told it; it does not change by itself: ask again with `get` or `wait`."""

    id: str
    model: str
    version: str
    state: JobState
    output: Any = None
    output_url: str | None = None  # where the output lies, if it is too large to stand in `output`
    error: Failure | None = None
    errors: tuple[Fault, ...] = ()  # failed positions of a job with `parameters={"partial": True}`
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline_at: datetime | None = None
    waiting_for: Wait | None = None
    progress: Progress | None = None
    attempt: int = 0
    timing: Timing = Timing()
    priority: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    batch: str | None = None
    letter: str | None = None
    retried_from: str | None = None
    request_id: str | None = None
    fallback_for: str | None = None  # the model that was asked for, where `model` is its fallback
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def done(self) -> bool:
        """It has ended, one way or another; that does not change any more."""
        return self.state not in ("queued", "running")

    @property
    def succeeded(self) -> bool:
        """It has an output."""
        return self.state == "succeeded"

    def result(self) -> Any:
        """The output. Raises the JobError of its `error.code` if it did not succeed, and ValueError if it has not
        ended, or its output lies elsewhere: `wait` and `output` of the client fetch it."""
        if self.succeeded:
            if self.output is None and self.output_url:
                raise ValueError(
                    f"the output of job {self.id} lies at {self.output_url}: client.output(job) fetches it"
                )
            return self.output
        raise self.failure()

    def failure(self) -> JobError:
        """The exception that says why it did not succeed. ValueError if it has not ended, or has succeeded."""
        from ml_service_client.core.answers import job_error

        if not self.done or self.succeeded:
            raise ValueError(f"job {self.id} is {self.state}")
        return job_error(self)

    @classmethod
    def of(cls, raw: Json) -> Job:
        """From the JSON."""
        progress, wait = raw.get("progress"), raw.get("waiting_for")
        return cls(
            id=raw["id"],
            model=raw["model"],
            version=raw["version"],
            state=raw["state"],
            output=raw.get("output"),
            output_url=raw.get("output_url"),
            error=Failure.of(raw.get("error")),
            errors=faults(raw.get("errors")),
            created_at=instant(raw.get("created_at")),
            started_at=instant(raw.get("started_at")),
            finished_at=instant(raw.get("finished_at")),
            deadline_at=instant(raw.get("deadline_at")),
            waiting_for=wait and Wait(wait.get("code", ""), wait.get("message", "")),
            progress=progress
            and Progress(progress.get("fraction"), progress.get("message"), instant(progress.get("at"))),
            attempt=raw.get("attempt", 0),
            timing=Timing.of(raw.get("timing")),
            priority=raw.get("priority"),
            labels=raw.get("labels") or {},
            batch=raw.get("batch"),
            letter=raw.get("letter"),
            retried_from=raw.get("retried_from"),
            request_id=raw.get("request_id"),
            fallback_for=raw.get("fallback_for"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a job: `type` is queued, running, progress (no id), succeeded, failed or canceled."""

    id: int | None
    type: str
    job: Job
