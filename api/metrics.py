"""Prometheus text: what API processes count (api/measure.py), and queues and workers as Redis knows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from api.measure import Measures
from api.presence import Workers
from api.sight import CAME, Sight, Sights
from shared import keys
from shared.catalog import Catalog
from shared.scripts_webhooks import Backlog

_VERSION = ["model", "version"]


class _Store(Collector):
    """One scrape's view of Redis."""

    def __init__(self, seen: Sight) -> None:
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
        yield _worker_info(seen.workers)
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
            "Jobs: queued, delayed and running now, the others ever",
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
    for outcome in CAME:
        came.add_metric([outcome], attempts.get(outcome, 0))
    yield came


def _worker_info(workers: Workers) -> Metric:
    names = ["worker", "device", "gpu", "uuid", "gpu_name"]
    info = GaugeMetricFamily("ml_worker_info", "1 for a living worker; which GPU is its device", labels=names)
    for worker, sign in workers.newest.items():
        gpu = sign.get("gpu") or {}
        told = (worker, sign.get("device", ""), gpu.get("index", ""), gpu.get("uuid", ""), gpu.get("name", ""))
        info.add_metric([str(label) for label in told], 1)
    return info


class Metrics:
    """For one event loop."""

    def __init__(self, sights: Sights, catalog: Catalog, measures: Measures) -> None:
        self._sights, self._catalog, self._measures = sights, catalog, measures

    async def text(self) -> bytes:
        """The exposition; without the queues while Redis is away. (What Redis knows is told by the process that is
        asked, not by each that counts beside it.)"""
        for ref, _, _ in self._catalog.refs():
            self._measures.accepted.labels(ref.model, ref.version)  # from 0 on: a rate does not see a first value
        store = CollectorRegistry()
        store.register(_Store(await self._sights.look()))
        return generate_latest(self._measures.registry()) + generate_latest(store)
