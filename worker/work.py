"""A job in this worker's hands, its items, and the units (chunks of items) that batches are made of."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from shared.catalog import Ref
from shared.errors import Fault
from shared.tasks import Split
from shared.tracing import NO_SPAN, Span
from worker.batcher import Budget
from worker.handler import Prepared
from worker.holdings import Started
from worker.models import LoadedModel
from worker.shelf import Place


@dataclass(slots=True, eq=False)
class Item:
    """One input of a job: its chunks' outputs, or why it failed."""

    value: Any = None  # the task's item model
    outputs: list[Any] = field(default_factory=list)
    missing: int = 0  # chunks without an output
    fault: Fault | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    begun: dict[int, float] = field(default_factory=dict)  # by chunk without an output: how far it is, 0 to 1

    @property
    def fraction(self) -> float:
        """How far it is, 0 to 1."""
        if self.fault is not None or not self.missing:
            return 1.0
        done = len(self.outputs) - self.missing + sum(tuple(self.begun.values()))
        return min(1.0, done / len(self.outputs))


@dataclass(slots=True, eq=False)
class Work:
    """One job from its message to its outcome. Made in Celery's main thread, made ready by one prepare thread, ended
    by the finish thread, or both by the leader (worker/runner.py). Between them several device threads may have items
    of it at a time: they only read it, but for what a claim tells, which is written under the claimer's lock."""

    job_id: str
    tag: str  # of its message
    ref: Ref
    priority: int
    request: Any  # celery's Request
    owner: str = ""  # the key that it takes turns for, of this weight
    weight: int = 1
    timeout_s: float | None = None  # its own time limit, beside its model's
    stored: dict[int, str] = field(
        default_factory=dict
    )  # references of parts of its input in the payload store, by number
    fetched: dict[int, bytes] = field(default_factory=dict)  # those parts
    place: Place | None = None  # of its version on the shelf, since it was accepted
    model: LoadedModel | None = None
    parts: Split | None = None
    parameters: Any = None
    partial: bool = False
    items: list[Item] = field(default_factory=list)
    open_items: int = 0
    alone: bool = False  # a suspect: shares a batch with nobody
    claimed: bool = False
    started: Started | None = None  # by the step that took its message: need not be claimed, for a moment
    ended: bool = False  # its outcome is on the way, or was written elsewhere: drop what is left of it
    attempt: int = 0
    started_at: int = 0  # ms, Redis TIME
    prepare_ms: float = 0.0
    predict_ms: float = 0.0
    batch_size: int = 0
    tokens: int = 0
    device_ms: float = 0.0  # its share, by cost, of the time that its batches were on the device
    queued_at: int = 0  # ms, Redis TIME: since when it waited
    request_id: str = ""  # of the request that asked for it
    returns: str = ""  # the field of the output that is the result (empty: the output)
    linked: bool = False  # something of Celery's hangs on its outcome: see worker/links.py
    span: Span = NO_SPAN  # from its take to its outcome
    message: str | None = None  # the last that its handler has told of its progress
    told: tuple[float | None, str | None] = (None, None)  # the progress that callers know

    @property
    def names(self) -> dict[str, str]:
        """For a log line about it."""
        return {"job_id": self.job_id} | ({"request_id": self.request_id} if self.request_id else {})

    @property
    def fraction(self) -> float | None:
        """How far it is over all its items, 0 to 1; None: nobody has told, and none of them has ended."""
        done = sum(item.fraction for item in self.items)
        known = done or any(item.begun for item in self.items)
        return done / len(self.items) if known else None

    @property
    def patience_s(self) -> float:
        """How long one call of its handler may take before the process is given up: its model's timeout, or its own
        where that is longer. A shorter one of its own ends the job alone. Accepted work only."""
        assert self.model is not None  # noqa: S101  # accepted work has its model
        return max(self.model.timeout_s, self.timeout_s or 0)


@dataclass(slots=True, eq=False)
class Unit:
    """One chunk of one item: what a batch counts."""

    work: Work
    item: int
    chunk: int
    prepared: Prepared
    budget: Budget
    tries: int = 0  # that failed for a moment

    @property
    def lane(self) -> Hashable:
        """One build of a version, one group, one patience, and for a suspect its own job."""
        work = self.work
        return (work.place, self.prepared.group, work.patience_s, work.job_id if work.alone else None)

    @property
    def priority(self) -> int:
        """Of its job."""
        return self.work.priority

    @property
    def owner(self) -> str:
        """Of its job."""
        return self.work.owner

    @property
    def weight(self) -> int:
        """Of its job."""
        return self.work.weight

    @property
    def cost(self) -> int:
        """At least 1."""
        return max(1, self.prepared.cost)
