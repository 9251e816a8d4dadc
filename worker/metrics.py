"""What a worker counts and measures for Prometheus. Its names and labels are told in docs/operations.md.

One object a process, handed to whoever has something to tell; none of it waits for anything. Where it is read:
worker/exposition.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.catalog import Ref
from shared.types import State
from worker.activity import Activity
from worker.device import Device
from worker.gpus import Readings
from worker.handler import Answered
from worker.work import Unit

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
# A handler may give its errors any code; a label must not.
CODES = frozenset(
    (
        "deadline_exceeded",
        "handler_contract",
        "invalid_input",
        "model_unavailable",
        "out_of_memory",
        "predict_error",
        "provider_error",
        "timeout",
    )
)
REASONS = ("provider_error", "rate_limited", "timeout")  # why a call is to be tried again
_LABELS = ("worker", "model", "version")


class WorkerMetrics:
    """From any thread."""

    def __init__(self, worker: str, device: Device) -> None:
        # They would be a second series for each, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
        self.registry = registry = CollectorRegistry()
        self._worker = worker
        self.activity = Activity()
        self._versions: dict[Ref, VersionMetrics] = {}
        ProcessCollector(registry=registry)
        if device.gpu is not None:
            registry.register(_GpuCollector(worker, str(device.gpu.index), Readings(device.gpu.uuid)))

        def histogram(name: str, told: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, told, _LABELS, buckets=buckets, registry=registry)

        def counter(name: str, told: str, *more: str) -> Counter:
            return Counter(name, told, (*_LABELS, *more), registry=registry)

        self.queue = histogram(
            "ml_job_queue_seconds", "From the submit (or the start asked for) to the device", SECONDS
        )
        self.prepare = histogram("ml_job_prepare_seconds", "To decode, check and tokenise a job's input", SECONDS)
        self.predict = histogram("ml_batch_predict_seconds", "A batch on the device", SECONDS)
        self.finish = histogram("ml_job_finish_seconds", "From a job's last batch to its outcome in Redis", SECONDS)
        self.items = histogram("ml_batch_items", "Items of a batch", ITEMS)
        self.fill = histogram("ml_batch_cost_fill", "A batch's cost (padded, if it is) as a share of max_cost", SHARES)
        self.waste = histogram("ml_batch_padding_waste", "The share of a batch's cost that is padding", SHARES)
        self.call_tokens = counter("ml_call_tokens", "Tokens that a provider has read and written", "direction")
        self.call_cost = counter("ml_call_cost", "What they cost, by the prices in models.yaml")
        self.put_off = counter("ml_calls_put_off", "Items that are to be tried again, by why", "reason")
        self.busy = counter("ml_device_busy_seconds", "Time that batches were on the device")
        self.jobs = counter("ml_jobs_ended", "Jobs whose outcome this worker has written", "outcome")
        self.redeliveries = counter("ml_redeliveries", "Jobs started again, after a start that came to nothing")
        self.halved = counter("ml_batches_halved", "Batches cut in two because the memory did not last")
        self.loads = counter("ml_model_loads", "Versions loaded, or not", "outcome")
        self.evictions = counter("ml_model_evictions", "Versions unloaded: idle, or in another's way")

    def of(self, ref: Ref) -> VersionMetrics:
        """Of one version; the same object each time."""
        found = self._versions.get(ref)
        if found is None:
            found = self._versions.setdefault(ref, VersionMetrics(self, (self._worker, ref.model, ref.version)))
        return found


class VersionMetrics:
    """What happens to one version's jobs. Its series begin with the object: a rate needs to see the zero."""

    def __init__(self, metrics: WorkerMetrics, labels: tuple[str, str, str]) -> None:
        self._metrics, self._labels = metrics, labels
        self._queue, self._prepare = metrics.queue.labels(*labels), metrics.prepare.labels(*labels)
        self._predict, self._finish = metrics.predict.labels(*labels), metrics.finish.labels(*labels)
        self._items, self._fill = metrics.items.labels(*labels), metrics.fill.labels(*labels)
        self._waste, self._busy = metrics.waste.labels(*labels), metrics.busy.labels(*labels)
        self._call_cost = metrics.call_cost.labels(*labels)
        self._redeliveries, self._halved = metrics.redeliveries.labels(*labels), metrics.halved.labels(*labels)
        self._outcomes: dict[str, Counter] = {}
        for outcome in ("succeeded", "canceled", *CODES):
            self._outcome(outcome)
        for direction in ("read", "written"):
            metrics.call_tokens.labels(*labels, direction)
        for reason in REASONS:
            metrics.put_off.labels(*labels, reason)
        for outcome in ("loaded", "failed"):
            metrics.loads.labels(*labels, outcome)
        metrics.evictions.labels(*labels)

    def started(self, *, attempt: int, queued_s: float) -> None:
        """A job was claimed for the device, for the `attempt`th time."""
        if attempt > 1:
            self._redeliveries.inc()
        else:
            self._queue.observe(queued_s)

    def prepared(self, seconds: float) -> None:
        """A job's input is ready for batches, or refused."""
        self._prepare.observe(seconds)

    def ran(self, units: Sequence[Unit], seconds: float, *, halved: int, share: float = 1.0) -> None:
        """A batch has run on this `share` of the device (0: elsewhere); it was cut `halved` times for want of
        memory."""
        budget, costs = units[0].budget, [unit.cost for unit in units]
        useful = sum(costs)
        paid = len(costs) * max(costs) if budget.padded else useful
        self._metrics.activity.ran(seconds * share, len(units))
        self._predict.observe(seconds)
        self._busy.inc(seconds * share)
        self._items.observe(len(units))
        self._fill.observe(paid / budget.max_cost)
        self._waste.observe(1 - useful / paid)
        if halved:
            self._halved.inc(halved)

    def spent(self, answered: Answered) -> None:
        """An item was answered by who counts tokens."""
        for direction, tokens in (("read", answered.read), ("written", answered.written)):
            self._metrics.call_tokens.labels(*self._labels, direction).inc(tokens)
        self._call_cost.inc(answered.cost)

    def put_off(self, reason: str) -> None:
        """An item waits to be tried again."""
        self._metrics.put_off.labels(*self._labels, reason if reason in REASONS else "provider_error").inc()

    def ended(self, state: State | None, code: str | None, seconds: float) -> None:
        """A job's outcome is written, so long after its last batch; `code` where it has failed."""
        self._metrics.activity.ended()
        self._finish.observe(seconds)
        if state is State.FAILED:
            self._outcome(code if code in CODES else "predict_error").inc()
        elif state is not None:
            self._outcome(state.value).inc()

    def loaded(self, *, well: bool) -> None:
        """It was built and warmed, or could not be."""
        self._metrics.loads.labels(*self._labels, "loaded" if well else "failed").inc()

    def evicted(self) -> None:
        """It was unloaded, though it is still to be served."""
        self._metrics.evictions.labels(*self._labels).inc()

    def _outcome(self, name: str) -> Counter:
        child = self._outcomes.get(name)
        if child is None:
            child = self._outcomes[name] = self._metrics.jobs.labels(*self._labels, name)
        return child


class _GpuCollector(Collector):
    """The worker's own GPU, asked at each scrape."""

    def __init__(self, worker: str, gpu: str, readings: Readings) -> None:
        self._labels, self._readings = (worker, gpu), readings

    def describe(self) -> Iterable[Metric]:
        return ()  # a GPU that does not answer must not keep the worker from starting

    def collect(self) -> Iterator[Metric]:
        for name, told, value in (
            ("ml_gpu_memory_used_bytes", "Of the GPU's memory, by whoever", self._readings.memory_used_bytes()),
            ("ml_gpu_memory_total_bytes", "The GPU's memory", self._readings.memory_total_bytes()),
            ("ml_gpu_utilization_ratio", "Share of the last moments with a kernel on it", self._readings.utilization()),
            ("ml_gpu_temperature_celsius", "Of the GPU", self._readings.temperature_c()),
        ):
            family = GaugeMetricFamily(name, told, labels=("worker", "gpu"))
            if value is not None:
                family.add_metric(self._labels, value)
            yield family
