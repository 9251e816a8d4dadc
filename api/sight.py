"""What Redis knows of the service at one moment, for who draws or counts it: queues, jobs, workers, dead letters."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from api.pauses import Pauses
from api.presence import Presence, Workers
from api.submitter import Command, Submitter
from shared import keys, scripts
from shared.catalog import Catalog, Ref
from shared.errors import StoreUnavailable
from shared.scripts_webhooks import Backlog, backlog

CAME = ("delivered", "retry", "failed", "disabled")
STATES = ("queued", "delayed", "running", "succeeded", "failed", "canceled")


async def read_counters(submitter: Submitter, catalog: Catalog) -> dict[tuple[str, str], dict[str, int]]:
    """Jobs by state for each (model, version): queued, delayed (queued to their caller, but not to start yet) and
    running now, the others ever. Raises StoreUnavailable."""
    refs = [ref for ref, _, _ in catalog.refs()]
    replies = await submitter.all(*(Command("HMGET", f"{keys.COUNTERS}{ref}", *STATES) for ref in refs))
    return {
        (ref.model, ref.version): {name: int(n or 0) for name, n in zip(STATES, reply, strict=True)}
        for ref, reply in zip(refs, replies, strict=True)
    }


@dataclass(slots=True)
class Latencies:
    """Of one version's succeeded jobs, from their submit to their end: how many took at most each bound of
    `keys.LATENCY_BOUNDS_MS`, then how many there are, and their sum."""

    counts: list[int]
    sum_s: float


async def read_latencies(submitter: Submitter, catalog: Catalog) -> dict[tuple[str, str], Latencies]:
    """By (model, version). Raises StoreUnavailable."""
    refs = [ref for ref, _, _ in catalog.refs()]
    names = [f"le:{bound}" for bound in (*keys.LATENCY_BOUNDS_MS, "inf")]
    replies = await submitter.all(*(Command("HMGET", f"{keys.COUNTERS}{ref}", "latency_ms", *names) for ref in refs))
    found = {}
    for ref, reply in zip(refs, replies, strict=True):
        total, *buckets = (int(n or 0) for n in reply)
        found[ref.model, ref.version] = Latencies(list(itertools.accumulate(buckets)), total / 1000)
    return found


async def read_oldest(submitter: Submitter, catalog: Catalog) -> dict[tuple[str, str], float]:
    """Since how many seconds the oldest job waits that no worker has taken, by (model, version); 0: none waits. Raises
    StoreUnavailable."""
    refs = [ref for ref, _, _ in catalog.refs()]
    ages = await submitter.one(scripts.oldest([_lists(ref) for ref in refs]))
    return {(ref.model, ref.version): age for ref, age in zip(refs, ages, strict=True)}


async def read_attempts(submitter: Submitter) -> dict[str, int]:
    """Attempts to deliver webhooks, ever, by what came of them. Raises StoreUnavailable."""
    found = await submitter.one(Command("HMGET", keys.HOOK_COUNTS, *CAME))
    return {outcome: int(count or 0) for outcome, count in zip(CAME, found, strict=True)}


async def read_waiting_lines(submitter: Submitter, catalog: Catalog) -> dict[tuple[str, str], int]:
    """How many lines of accepted batches have not begun, and are in no queue yet, by (model, version). Raises
    StoreUnavailable."""
    refs = [ref for ref, _, _ in catalog.refs()]
    batches = await submitter.all(*(Command("SMEMBERS", f"{keys.BATCHES_ON}{ref}") for ref in refs))
    found = {}
    for ref, names in zip(refs, batches, strict=True):
        lengths = await submitter.all(*(Command("LLEN", keys.LINES + name.decode()) for name in names)) if names else []
        found[ref.model, ref.version] = sum(lengths)
    return found


def _lists(ref: Ref) -> list[str]:
    queue = keys.queue_name(ref.model, ref.version)
    return [keys.queue_list(queue, priority) for priority in keys.PRIORITIES]


@dataclass(slots=True)
class Sight:
    """What one look has found. Empty while Redis is away."""

    up: bool = False
    counters: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    latencies: dict[tuple[str, str], Latencies] = field(default_factory=dict)
    limits: dict[tuple[str, str], int] = field(default_factory=dict)
    oldest: dict[tuple[str, str], float] = field(default_factory=dict)
    lines: dict[tuple[str, str], int] = field(default_factory=dict)
    paused: dict[str, bool] = field(default_factory=dict)
    workers: Workers = field(default_factory=Workers)
    letters: int | None = None
    webhooks: Backlog | None = None
    attempts: dict[str, int] = field(default_factory=dict)


class Sights:
    """For one event loop."""

    def __init__(self, submitter: Submitter, catalog: Catalog, presence: Presence, pauses: Pauses) -> None:
        self._submitter, self._catalog, self._presence, self._pauses = submitter, catalog, presence, pauses

    async def look(self) -> Sight:
        """One, now."""
        try:
            return Sight(
                up=True,
                counters=await read_counters(self._submitter, self._catalog),
                latencies=await read_latencies(self._submitter, self._catalog),
                limits={(ref.model, ref.version): spec.limits.queue for ref, spec, _ in self._catalog.refs()},
                oldest=await read_oldest(self._submitter, self._catalog),
                lines=await read_waiting_lines(self._submitter, self._catalog),
                paused=await self._paused(),
                workers=await self._presence.workers(),
                letters=await self._submitter.one(Command("XLEN", keys.DEAD)),
                webhooks=await self._submitter.one(backlog()),
                attempts=await read_attempts(self._submitter),
            )
        except StoreUnavailable:
            return Sight()

    async def _paused(self) -> dict[str, bool]:
        paused = await self._pauses.read()
        return {name: name in paused for name in self._catalog.models}
