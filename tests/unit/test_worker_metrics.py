"""What a worker tells Prometheus: each number, the GPU's, and where it is served."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.catalog import Ref
from shared.errors import ConfigError
from shared.settings import Settings
from shared.types import State
from tests.fake_gpus import UUIDS, machine
from worker.batcher import Budget
from worker.device import Device
from worker.exposition import own_address, serve_metrics
from worker.handler import Prepared
from worker.metrics import WorkerMetrics
from worker.work import Unit

REF = Ref("bert", "1")


class Told:
    """The samples of an exposition by name and the labels asked for."""

    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        (value,) = [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        return value


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics("w1", Device("cpu"))


def told(metrics: WorkerMetrics) -> Told:
    return Told(generate_latest(metrics.registry).decode())


def units(*costs: int, padded: bool = False, max_cost: int = 100) -> list[Unit]:
    budget = Budget(8, max_cost, padded=padded)
    return [Unit(cast(Any, SimpleNamespace()), 0, n, Prepared(n, cost=cost), budget) for n, cost in enumerate(costs)]


def test_a_padded_batch_pays_for_its_longest(metrics: WorkerMetrics) -> None:
    metrics.of(REF).ran(units(10, 10, 40, padded=True, max_cost=240), 0.2, halved=0)
    seen = told(metrics)
    assert seen("ml_batch_items_sum") == 3
    assert seen("ml_batch_cost_fill_sum") == 0.5, "three times 40, of 240"
    assert seen("ml_batch_padding_waste_sum") == 0.5, "60 of 120 are padding"
    assert seen("ml_batch_predict_seconds_sum") == seen("ml_device_busy_seconds_total") == 0.2
    assert seen("ml_batches_halved_total") == 0


def test_a_packed_batch_wastes_nothing(metrics: WorkerMetrics) -> None:
    metrics.of(REF).ran(units(10, 40), 0.1, halved=2)
    metrics.of(REF).ran(units(300), 0.1, halved=0)
    seen = told(metrics)
    assert seen("ml_batch_padding_waste_sum") == 0
    assert seen("ml_batch_cost_fill_bucket", le="0.5") == 1
    assert seen("ml_batch_cost_fill_bucket", le="1.0") == 1, "one item over the budget runs alone, and over it"
    assert seen("ml_batches_halved_total") == 2


def test_jobs_by_outcome_and_no_label_of_a_handlers_making(metrics: WorkerMetrics) -> None:
    version = metrics.of(REF)
    version.ended(State.SUCCEEDED, None, 0.1)
    version.ended(State.FAILED, "out_of_memory", 0.1)
    for n in range(100):
        version.ended(State.FAILED, f"mine-{n}", 0.1)
    seen = told(metrics)
    assert seen("ml_jobs_ended_total", outcome="succeeded") == seen("ml_jobs_ended_total", outcome="out_of_memory") == 1
    assert seen("ml_jobs_ended_total", outcome="predict_error") == 100
    assert seen("ml_jobs_ended_total", outcome="timeout") == 0, "there from the start: a rate needs the zero"
    assert seen("ml_job_finish_seconds_count", worker="w1", model="bert", version="1") == 102


def test_only_the_first_start_tells_what_the_queue_took(metrics: WorkerMetrics) -> None:
    metrics.of(REF).started(attempt=1, queued_s=2)
    metrics.of(REF).started(attempt=2, queued_s=500)
    seen = told(metrics)
    assert (seen("ml_job_queue_seconds_sum"), seen("ml_job_queue_seconds_count")) == (2, 1)
    assert seen("ml_redeliveries_total") == 1


def test_loads_and_evictions(metrics: WorkerMetrics) -> None:
    version = metrics.of(REF)
    version.loaded(well=True)
    version.loaded(well=False)
    version.loaded(well=False)
    version.evicted()
    seen = told(metrics)
    assert seen("ml_model_loads_total", outcome="loaded") == seen("ml_model_evictions_total") == 1
    assert seen("ml_model_loads_total", outcome="failed") == 2
    assert metrics.of(Ref("bert", "1")) is version


def test_the_gpu_is_asked_at_each_scrape(tmp_path: Path) -> None:
    program = (
        "from prometheus_client import generate_latest; from worker.gpus import all_gpus\n"
        "from worker.device import Device; from worker.metrics import WorkerMetrics\n"
        "metrics = WorkerMetrics('w1', Device('cuda:0', all_gpus()[1]))\n"
        "generate_latest(metrics.registry); print(generate_latest(metrics.registry).decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | machine(tmp_path), capture_output=True, text=True, check=True
    )
    seen = Told(done.stdout)
    assert seen("ml_gpu_temperature_celsius", worker="w1", gpu="1") == 42, "the second's, not the first's"
    assert seen("ml_gpu_memory_used_bytes") == 4e9
    assert seen("ml_gpu_memory_total_bytes") == 16e9
    assert seen("ml_gpu_utilization_ratio") == 0.37


def test_a_gpu_that_does_not_answer_is_left_out(tmp_path: Path) -> None:
    program = (
        "from prometheus_client import generate_latest; from worker.gpus import Gpu\n"
        "from worker.device import Device; from worker.metrics import WorkerMetrics\n"
        f"metrics = WorkerMetrics('w1', Device('cuda:0', Gpu(0, {UUIDS[2]!r}, 'x', 1)))\n"
        "print(generate_latest(metrics.registry).decode())"
    )
    env = os.environ | machine(tmp_path, gpus=2)
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    names = {sample.name for sample in Told(done.stdout).samples}
    assert not [name for name in names if name.startswith("ml_gpu_")]
    assert "process_cpu_seconds_total" in names


def test_it_is_served_where_it_says() -> None:
    registry = CollectorRegistry()
    place = serve_metrics(registry, Settings(metrics_port=0))
    assert place is not None
    assert place.startswith("127.0.0.1:")
    with urllib.request.urlopen(f"http://{place}/metrics") as answer:
        assert answer.status == 200
    assert serve_metrics(registry, Settings()) is None


def test_a_taken_port_is_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"ML_METRICS_PORT: 127\.0\.0\.1:{port}"):
            serve_metrics(CollectorRegistry(), Settings(metrics_port=port))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://127.0.0.1:6379/0", "127.0.0.1"),
        ("redis+socket:///run/redis.sock", "127.0.0.1"),
        ("sentinel://[::1]:26379/0?master_name=m", "::1"),
        ("redis://nobody.invalid:6379/0", socket.gethostname()),
    ],
)
def test_others_reach_it_on_the_side_of_redis(url: str, address: str) -> None:
    assert own_address(url) == address
