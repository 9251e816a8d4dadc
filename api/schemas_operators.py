"""What the operators' calls answer: OpenAPI, and the shape of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from shared.types import Instant


class WorkerModel(BaseModel):
    """A version on a worker."""

    model: str
    version: str
    state: str = Field(
        examples=["ready"], description="as in /v1/models: unloaded, loading, ready, draining, failed ..."
    )


class DeviceMemory(BaseModel):
    """Of a GPU, by all processes on it, as its driver tells."""

    used_bytes: int
    total_bytes: int


class Worker(BaseModel):
    """A worker process, by its last sign of life; one that did not start tells its name and `failed` alone."""

    id: str = Field(description="of this very process: one that starts again is another")
    name: str
    host: str | None = None
    pid: int | None = None
    device: str | None = Field(None, examples=["cuda:0"])
    gpu: dict[str, Any] | None = Field(None, description="which it is of the machine")
    state: Literal["ready", "draining", "stalled", "failed"] = Field(
        description="draining: it finishes its batch, gives the rest back, leaves; stalled: its device or its handler "
        "hangs, or the device is lost"
    )
    memory_bytes: int | None = Field(None, description="of the host's, that the process has")
    device_memory: DeviceMemory | None = None
    busy: float | None = Field(None, description="share of the last seconds (about ten) with a batch on the device")
    jobs_per_s: float | None = Field(None, description="ended, in the same seconds")
    batch_size: float | None = Field(None, description="items of a batch on average; null: there was none")
    held: int | None = Field(None, description="jobs in its hands, started or not")
    models: list[WorkerModel] = Field(default_factory=list)
    started_at: Instant | None = None
    heartbeat_at: Instant


class WorkerList(BaseModel):
    """The living workers, and those that have failed to start a moment ago; by name."""

    data: list[Worker]


class VersionSeen(BaseModel):
    """A version and its jobs, as they are now."""

    model: str
    version: str
    queued: int = Field(description="jobs that wait for a worker")
    delayed: int = Field(description="jobs that are not to start yet")
    running: int
    succeeded: int = Field(description="jobs, ever; so are failed and canceled")
    failed: int
    canceled: int
    limit: int = Field(description="jobs that may wait; more are refused")
    oldest_s: float = Field(description="since when the oldest job waits that no worker has taken; 0: none waits")
    lines_waiting: int = Field(description="lines of batches that are in no queue yet")
    workers: int = Field(description="living workers that have it, or load it when jobs come")
    paused: bool
    latency: list[int] = Field(
        description="succeeded jobs, ever, that took at most each of `bounds_ms` from submit to end; the last: all"
    )


class Seen(BaseModel):
    """The service at one moment. `up` false: Redis is away, and nothing else is known."""

    at: Instant
    up: bool
    bounds_ms: list[int]
    versions: list[VersionSeen]
    workers: list[Worker]
    refusals: dict[str, int] = Field(
        description="POSTs refused by this API process (with PROMETHEUS_MULTIPROC_DIR: by all that share it) since its "
        "start, by code"
    )
    dead_letters: int | None
    webhooks_waiting: int | None


class Paused(BaseModel):
    """A model after `pause` or `resume`."""

    model: str
    paused: bool
    changed: bool = Field(description="false: it was so already")


class Purged(BaseModel):
    """After `purge`."""

    canceled: int = Field(description="jobs that had not started, and have ended as canceled")


class Draining(BaseModel):
    """After `drain`: the processes that have been told."""

    draining: list[str] = Field(description="their ids; a name may have several")
