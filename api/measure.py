"""What this process counts of its own calls. With PROMETHEUS_MULTIPROC_DIR set, the processes that share the folder
count together, and a scrape of any of them tells of all.

prometheus-client decides at its import whether its values live in that folder, so it is the environment's business and
no setting of ours.
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import cache
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import ConfigError
from shared.processes import lives

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
OTHER = "other"  # of routes and methods: whatever a caller may invent is one label value
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Measures:
    """Counters of one app, in a registry of its own. Raises ConfigError for a folder that cannot be written."""

    def __init__(self) -> None:
        # They would be a second series for each, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
        self._folder = _folder()
        self._own = registry = CollectorRegistry()
        names = ("route", "method", "status")
        self.requests = Counter("ml_http_requests", "Calls answered", names, registry=registry)
        self.seconds = Histogram(
            "ml_http_request_seconds",
            "From a call's first byte to its answer's last",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.refusals = Counter(
            "ml_refusals", "POSTs refused, by the code of their problem document", ("reason",), registry=registry
        )
        self.fallbacks = Counter(
            "ml_fallbacks", "Jobs that went to the fallback of `model`", ("model", "reason"), registry=registry
        )
        self.accepted = Counter(
            "ml_jobs_accepted",
            "Jobs accepted over HTTP, without lines of batches",
            ("model", "version"),
            registry=registry,
        )
        self.batches = Counter("ml_batches", "Batches accepted", registry=registry)
        self.waits = Gauge(
            "ml_waiting_calls", "Calls that wait for a job now", multiprocess_mode="livesum", registry=registry
        )
        if self._folder is None:
            ProcessCollector(registry=registry)

    def registry(self) -> CollectorRegistry:
        """For one scrape: this process alone, or all that share the folder. (Of those no process's own memory and CPU
        are told: the scrape reaches one by chance.)"""
        if self._folder is None:
            return self._own
        for pid in _dead(self._folder):
            with contextlib.suppress(FileNotFoundError):  # a sibling does the same at this moment
                mark_process_dead(pid, self._folder)  # type: ignore[no-untyped-call]  # as above
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._folder)  # type: ignore[no-untyped-call]  # as above
        return registry

    def refused(self) -> dict[str, int]:
        """POSTs refused so far, by their code."""
        families = [family for family in self.registry().collect() if family.name == "ml_refusals"]
        samples = [sample for family in families for sample in family.samples if sample.name == "ml_refusals_total"]
        return {sample.labels["reason"]: int(sample.value) for sample in samples}


def _folder() -> str | None:
    name = os.environ.get(FOLDER)
    if not name:
        return None
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{FOLDER}: {name}: {error.strerror}") from None
    mark_process_dead(os.getpid(), name)  # type: ignore[no-untyped-call]  # one that had our process id before
    return name


def _dead(folder: str) -> list[int]:
    """The processes whose gauges lie in the folder, and that are gone."""
    pids = {int(file.stem.rpartition("_")[2]) for file in Path(folder).glob("gauge_live*.db")}
    return [pid for pid in pids if not lives(pid)]


class Measure:
    """Counts and times each call, by its route's template. Outside of all that may answer."""

    def __init__(self, app: ASGIApp, measures: Measures) -> None:
        self._app, self._measures = app, measures
        # prometheus-client would look each up by its labels, under a lock; there are few.
        self._requests = cache(measures.requests.labels)
        self._seconds = cache(measures.seconds.labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's contract
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), "none"  # the caller had gone before there was an answer
        state = scope.setdefault("state", {})

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, seen)
        finally:
            route = getattr(scope.get("route"), "path", OTHER)
            method = scope["method"] if scope["method"] in _METHODS else OTHER
            self._requests(route, method, status).inc()
            self._seconds(route).observe(time.perf_counter() - begun)
            refused = state.get("refused")
            if refused is not None and method == "POST":
                self._measures.refusals.labels(refused).inc()
