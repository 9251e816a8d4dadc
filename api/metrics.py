"""Prometheus text: what API processes count (api/measure.py), and queues and workers as Redis knows them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from api.measure import Measures
from api.pauses import Pauses
from api.presence import Presence, Workers
from api.submitter import Command, Submitter
from shared import keys, scripts
from shared.catalog import Catalog, Ref
from shared.errors import StoreUnavailable
from shared.scripts_webhooks import Backlog, backlog

_VERSION = ["model", "version"]
_CAME = ("delivered", "retry", "failed", "disabled")
STATES = ("queued", "delayed", "running", "succeeded", "failed", "canceled")


async def read_counters(submitter: Submitter, catalog: Catalog) -> dict[tuple[str, str], dict[str, int]]:
    """Jobs by state for each (model, version): queued, delayed (queued to their caller, but not to start yet) and
    running now, the others ever. Raises StoreUnavailable."""
    refs = [ref for ref, _, _ in catalog.refs()]
    replies = await submitter.run(*(Command("HMGET", f"{keys.COUNTERS}{ref}", *STATES) for ref in refs))
    found = {}
    for ref, reply in zip(refs, replies, strict=True):
        if isinstance(reply, Exception):
            raise StoreUnavailable(str(reply))
        found[ref.model, ref.version] = {name: int(n or 0) for name, n in zip(STATES, reply, strict=True)}
    return found


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
    replies = await submitter.run(*(Command("HMGET", f"{keys.COUNTERS}{ref}", "latency_ms", *names) for ref in refs))
    found = {}
    for ref, reply in zip(refs, replies, strict=True):
        if isinstance(reply, Exception):
            raise StoreUnavailable(str(reply))
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
    found = await submitter.one(Command("HMGET", keys.HOOK_COUNTS, *_CAME))
    return {outcome: int(count or 0) for outcome, count in zip(_CAME, found, strict=True)}


async def read_waiting_lines(submitter: Submitter, catalog: Catalog) -> dict[tuple[str, str], int]:
    """How many lines of accepted batches have not begun, and are in no queue yet, by (model, version). Raises
    StoreUnavailable."""
    refs = [ref for ref, _, _ in catalog.refs()]
    batches = await submitter.run(*(Command("SMEMBERS", f"{keys.BATCHES_ON}{ref}") for ref in refs))
    found = {}
    for ref, names in zip(refs, batches, strict=True):
        lengths = await submitter.run(*(Command("LLEN", keys.LINES + name.decode()) for name in names)) if names else []
        if any(isinstance(reply, Exception) for reply in (names, *lengths)):
            raise StoreUnavailable
        found[ref.model, ref.version] = sum(lengths)
    return found


def _lists(ref: Ref) -> list[str]:
    queue = keys.queue_name(ref.model, ref.version)
    return [keys.queue_list(queue, priority) for priority in keys.PRIORITIES]


@dataclass(slots=True)
class _Seen:
    """What one scrape has read. Empty while Redis is away."""

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


class _Store(Collector):
    """One scrape's view of Redis."""

    def __init__(self, seen: _Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        seen = self._seen
        yield GaugeMetricFamily("ml_store_up", "Whether Redis answers this API process", value=float(seen.up))
        yield from self._queues()
        paused = GaugeMetricFamily("ml_model_paused", "1: workers start no job of it, see pause", labels=["model"])
        for model, is_paused in seen.paused.items():
            paused.add_metric([model], is_paused)
        yield paused
        took = HistogramMetricFamily(
            "ml_job_seconds", "Succeeded jobs, from their submit to their end", labels=_VERSION
        )
        bounds = [str(bound / 1000) for bound in keys.LATENCY_BOUNDS_MS] + ["+Inf"]
        for labels, found in seen.latencies.items():
            took.add_metric(labels, list(zip(bounds, found.counts, strict=True)), found.sum_s)
        yield took
        yield from _loaded([card for cards in seen.workers.cards.values() for card in cards])
        yield _worker_info(seen.workers.workers)
        if seen.letters is not None:
            yield GaugeMetricFamily("ml_dead_letters", "Dead letters, see /v1/dead", value=seen.letters)
        if seen.webhooks is not None:
            yield from _webhooks(seen.webhooks, seen.attempts)

    def _queues(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("ml_queue_depth", "Jobs that wait for a worker", labels=_VERSION)
        limit = GaugeMetricFamily("ml_queue_limit", "Jobs that may wait; more are refused", labels=_VERSION)
        oldest = GaugeMetricFamily(
            "ml_queue_oldest_seconds", "How long the oldest job waits that no worker has taken", labels=_VERSION
        )
        lines = GaugeMetricFamily(
            "ml_batch_lines_waiting", "Lines of batches that are in no queue yet", labels=_VERSION
        )
        serving = GaugeMetricFamily(
            "ml_serving_workers", "Living workers that have the version, or load it when jobs come", labels=_VERSION
        )
        jobs = GaugeMetricFamily(
            "ml_jobs",
            "Jobs: queued, delayed and running now, the others since the start",
            labels=[*_VERSION, "state"],
        )
        for labels, states in self._seen.counters.items():
            model, version = labels
            depth.add_metric(labels, states["queued"])
            serving.add_metric(labels, self._seen.workers.serves(f"{model}@{version}"))
            if labels in self._seen.oldest:  # a version may come or go between two reads
                limit.add_metric(labels, self._seen.limits[labels])
                oldest.add_metric(labels, self._seen.oldest[labels])
            if labels in self._seen.lines:
                lines.add_metric(labels, self._seen.lines[labels])
            for state, count in states.items():
                jobs.add_metric([*labels, state], count)
        yield from (depth, limit, oldest, lines, serving, jobs)


def _loaded(cards: list[dict[str, Any]]) -> Iterator[Metric]:
    """Of each version on each worker: as long as it is loaded there, or has failed to load a moment ago."""
    names = ["model", "version", "worker"]
    ceiling = GaugeMetricFamily(
        "ml_max_batch_size", "Items a batch may have on this worker; lowered when it runs out of memory", labels=names
    )
    failed = GaugeMetricFamily("ml_failed_batches", "Batches on this worker in which every item failed", labels=names)
    memory = GaugeMetricFamily(
        "ml_model_memory_bytes",
        "What a version took when it was loaded; in all of a worker: see ML_MODEL_MEMORY",
        labels=[*names, "memory"],
    )
    broken = GaugeMetricFamily(
        "ml_load_failed", "1: this version does not load on this worker; /v1/models tells why", labels=names
    )
    for card in cards:
        labels = [card["model"], card["version"], card["worker"]]
        if card["state"] == "failed":
            broken.add_metric(labels, 1)
        if card["state"] == "ready":
            ceiling.add_metric(labels, card["limits"]["max_batch_size"])
            failed.add_metric(labels, card["failed_batches"])
            for name, size in card.get("memory", {}).items():
                memory.add_metric([*labels, name.removesuffix("_bytes")], size)
    yield from (ceiling, failed, memory, broken)


def _webhooks(backlog: Backlog, attempts: dict[str, int]) -> Iterator[Metric]:
    yield GaugeMetricFamily("ml_webhooks_waiting", "Webhooks that are not done", value=backlog.waiting)
    yield GaugeMetricFamily("ml_webhooks_due", "Of these, due and not taken by anybody", value=backlog.due)
    yield GaugeMetricFamily("ml_webhook_oldest_seconds", "Since when the first of these is due", value=backlog.oldest_s)
    came = CounterMetricFamily("ml_webhook_attempts", "Attempts to deliver, by what came of them", labels=["outcome"])
    for outcome in _CAME:
        came.add_metric([outcome], attempts.get(outcome, 0))
    yield came


def _worker_info(signs: list[dict[str, Any]]) -> Metric:
    names = ["worker", "device", "gpu", "uuid", "gpu_name"]
    info = GaugeMetricFamily("ml_worker_info", "1 for a living worker; which GPU is its device", labels=names)
    # By name: one that was killed and has started again has two signs of life for a while.
    newest = {sign["worker"]: sign for sign in sorted(signs, key=lambda sign: sign.get("started_at", 0.0))}
    for worker, sign in newest.items():
        gpu = sign.get("gpu") or {}
        told = (worker, sign.get("device", ""), gpu.get("index", ""), gpu.get("uuid", ""), gpu.get("name", ""))
        info.add_metric([str(label) for label in told], 1)
    return info


class Metrics:
    """For one event loop."""

    def __init__(
        self, submitter: Submitter, catalog: Catalog, presence: Presence, pauses: Pauses, measures: Measures
    ) -> None:
        self._submitter, self._catalog, self._presence = submitter, catalog, presence
        self._pauses, self._measures = pauses, measures

    async def text(self) -> bytes:
        """The exposition; without the queues while Redis is away. (What Redis knows is told by the process that is
        asked, not by each that counts beside it.)"""
        for ref, _, _ in self._catalog.refs():
            self._measures.accepted.labels(ref.model, ref.version)  # from 0 on: a rate does not see a first value
        store = CollectorRegistry()
        store.register(_Store(await self._look()))
        return generate_latest(self._measures.registry()) + generate_latest(store)

    async def _paused(self) -> dict[str, bool]:
        paused = await self._pauses.read()
        return {name: name in paused for name in self._catalog.models}

    async def _look(self) -> _Seen:
        try:
            return _Seen(
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
            return _Seen()
