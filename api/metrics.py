"""Prometheus text: this process, and the queues as Redis counts them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from api.presence import Presence, Workers
from api.submitter import Command, Submitter
from shared import keys
from shared.catalog import Catalog
from shared.errors import StoreUnavailable

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


class _Jobs(Collector):
    """What was read last; a scrape reads it right after it was set."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, str], dict[str, int]] = {}
        self.latencies: dict[tuple[str, str], Latencies] = {}
        self.cards: list[dict[str, Any]] = []
        self.workers: list[dict[str, Any]] = []
        self.letters: int | None = None
        self.up = False

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("ml_store_up", "Whether Redis answers this API process", value=float(self.up))
        depth = GaugeMetricFamily("ml_queue_depth", "Jobs that wait for a worker", labels=["model", "version"])
        jobs = GaugeMetricFamily(
            "ml_jobs",
            "Jobs: queued, delayed and running now, the others since the start",
            labels=["model", "version", "state"],
        )
        for (model, version), states in self.counters.items():
            depth.add_metric([model, version], states["queued"])
            for state, count in states.items():
                jobs.add_metric([model, version, state], count)
        yield depth
        yield jobs
        took = HistogramMetricFamily(
            "ml_job_seconds", "Succeeded jobs, from their submit to their end", labels=["model", "version"]
        )
        bounds = [str(bound / 1000) for bound in keys.LATENCY_BOUNDS_MS] + ["+Inf"]
        for (model, version), found in self.latencies.items():
            took.add_metric([model, version], list(zip(bounds, found.counts, strict=True)), found.sum_s)
        yield took
        yield from _loaded(self.cards)
        yield _worker_info(self.workers)
        if self.letters is not None:
            yield GaugeMetricFamily("ml_dead_letters", "Dead letters, see /v1/dead", value=self.letters)


def _loaded(cards: list[dict[str, Any]]) -> Iterator[Metric]:
    """Of each version on each worker, as long as it is loaded there."""
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
    for card in cards:
        if card["state"] == "ready":
            labels = [card["model"], card["version"], card["worker"]]
            ceiling.add_metric(labels, card["limits"]["max_batch_size"])
            failed.add_metric(labels, card["failed_batches"])
            for name, size in card.get("memory", {}).items():
                memory.add_metric([*labels, name.removesuffix("_bytes")], size)
    yield from (ceiling, failed, memory)


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
    """One registry an app, so that two apps in one process do not meet."""

    def __init__(self, submitter: Submitter, catalog: Catalog, presence: Presence) -> None:
        self._submitter, self._catalog, self._presence = submitter, catalog, presence
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._jobs = _Jobs()
        self._registry.register(self._jobs)

    async def text(self) -> bytes:
        """The exposition; without the queues while Redis is away."""
        try:
            counters, up = await read_counters(self._submitter, self._catalog), True
            latencies = await read_latencies(self._submitter, self._catalog)
            seen = await self._presence.workers()
            letters = await self._submitter.one(Command("XLEN", keys.DEAD))
        except StoreUnavailable:
            counters, latencies, up, seen, letters = {}, {}, False, Workers(), None
        self._jobs.counters, self._jobs.up, self._jobs.workers = counters, up, seen.workers
        self._jobs.cards = [card for cards in seen.cards.values() for card in cards]
        self._jobs.letters, self._jobs.latencies = letters, latencies
        return generate_latest(self._registry)
