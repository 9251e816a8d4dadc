"""A real worker and two real API processes on one socket, measured: all that the docs, the dashboard and the alerts
name is there, and whichever API process answers tells of both."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml

from local.embedded import EmbeddedServer
from local.ports import free_port
from tests import promql
from tests.conftest import wait_until
from tests.fake_gpus import machine
from tests.processes import REPOSITORY, api_process, worker

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    limits: {queue: 1000, input_bytes: 1000}
  busy:
    task: echo
    versions: {"1": {}}
    limits: {queue: 1}
    fallback: {model: spare}
  spare:
    task: echo
    versions: {"1": {}}
  words:
    handler: tests/e2e/measured.py:Words
    versions: {"1": {}}
    batch: {max_size: 4, max_cost: 40, max_wait_ms: 2000}
  broken:
    handler: tests/e2e/measured.py:Broken
    load: lazy
    versions: {"1": {}}
"""
TEXTS = ["one", "one two three", "large " * 10, "wrong"]


@dataclass
class Stack:
    """`url` leads to either of the API processes; each call has a connection of its own, so that both get some."""

    url: str
    counts: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30)

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=30)

    def metrics(self) -> promql.Exposition:
        """Of the API."""
        return promql.Exposition(self.get("/metrics").text)

    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/metrics/workers").json()
        return found

    def all_metrics(self) -> promql.Exposition:
        """Of the API and of the worker that it names."""
        ((place,),) = (target["targets"] for target in self.targets())
        return promql.Exposition(self.get("/metrics").text, httpx.get(f"http://{place}/metrics").text)


@pytest.fixture(scope="module")
def stack(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """After some work of each kind."""
    folder = tmp_path_factory.mktemp("measured")
    models = folder / "models.yaml"
    models.write_text(MODELS)
    redis.Redis.from_url(server.url).flushall()
    shown = os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    together = {"PROMETHEUS_MULTIPROC_DIR": str(folder / "counts")}
    try:
        with contextlib.ExitStack() as processes, socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
            place = listener.getsockname()[1]
            env = machine(folder / "locks", gpus=2) | {"ML_METRICS_PORT": "0"}
            processes.enter_context(worker(server.url, models, "w1", **env))
            for name in ("a", "b"):
                processes.enter_context(api_process(server.url, models, folder / f"{name}.log", listener, **together))
            running = Stack(f"http://127.0.0.1:{place}", folder / "counts")
            _work(running)
            yield running
    finally:
        if shown is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = shown


def _work(stack: Stack) -> None:
    wait_until(lambda: stack.get("/readyz?model=words").status_code == 200, what="the worker is seen")
    with ThreadPoolExecutor(8) as callers:
        jobs = list(callers.map(lambda n: stack.post("/inference", {"model_type": "echo", "data": n}), range(24)))
        texts = [callers.submit(stack.post, "/inference", {"model_type": "words", "data": {"text": t}}) for t in TEXTS]
        assert [job.status_code for job in jobs] == [200] * 24
        assert [text.result().status_code for text in texts] == [200, 200, 200, 500]
    wait_until(lambda: all(_sees_spare(stack) for _ in range(10)), what="both processes see the worker")
    jobs = [stack.post("/v1/jobs", {"model": "busy", "input": 1, "parameters": {"sleep_ms": 2000}}) for _ in range(2)]
    assert [job.json()["model"] for job in jobs] == ["busy", "spare"]
    assert stack.post("/v1/jobs", {"model": "echo", "input": "x" * 2000}).status_code == 413
    assert stack.post("/v1/jobs", {"model": "broken", "input": {"text": "x"}}).status_code == 202
    wait_until(lambda: stack.metrics().value("ml_load_failed", model="broken") == 1, what="the broken model's card")


def _sees_spare(stack: Stack) -> bool:
    return stack.metrics().value("ml_serving_workers", model="spare") == 1


@pytest.mark.long
def test_whichever_process_answers_tells_of_both(stack: Stack) -> None:
    pids = {name.rpartition("_")[2] for name in os.listdir(stack.counts)}
    assert len(pids) == 2
    for _ in range(10):
        seen = stack.metrics()
        answered = {"route": "/inference", "method": "POST"}
        assert seen.value("ml_http_requests_total", **answered, status="200") == 27
        assert seen.value("ml_http_requests_total", **answered, status="500") == 1
        assert seen.value("ml_http_request_seconds_count", route="/inference") == 28
        assert seen.value("ml_fallbacks_total", model="busy", reason="queue_full") == 1
        assert seen.value("ml_jobs_accepted_total", model="echo", version="1") == 24
        assert seen.value("ml_jobs_accepted_total", model="spare", version="1") == 1, "the fallback has the job"
        assert seen.value("ml_refusals_total") == seen.value("ml_refusals_total", reason="payload_too_large") == 1
        assert seen.value("ml_jobs", model="echo", state="succeeded") == 24, "what Redis knows is not summed"


def test_the_worker_tells_what_its_jobs_took(stack: Stack) -> None:
    seen = stack.all_metrics()
    assert seen.value("ml_jobs_ended_total", model="echo", outcome="succeeded") == 24
    assert seen.value("ml_jobs_ended_total", model="words", outcome="predict_error") == 1
    for name in ("queue", "prepare", "finish"):
        assert seen.value(f"ml_job_{name}_seconds_count", model="echo") == 24
    batches = seen.value("ml_batch_items_count", model="echo")
    assert 1 <= batches <= 24
    assert seen.value("ml_batch_items_sum", model="echo") == 24
    assert seen.value("ml_batch_predict_seconds_count", model="echo") == batches
    busy = seen.value("ml_device_busy_seconds_total", model="words")
    assert busy == pytest.approx(seen.value("ml_batch_predict_seconds_sum", model="words"))
    assert seen.value("ml_batch_padding_waste_sum", model="words") > 0
    assert seen.value("ml_batch_padding_waste_sum", model="echo") == 0
    assert seen.value("ml_batches_halved_total", model="words") >= 1
    assert seen.value("ml_model_loads_total", model="words", outcome="loaded") == 1
    assert seen.value("ml_model_loads_total", model="broken", outcome="failed") >= 1


def test_prometheus_finds_the_worker_by_its_sign_of_life(stack: Stack) -> None:
    ((target),) = stack.targets()
    assert target["labels"] == {"__meta_ml_worker": "w1"}
    assert re.fullmatch(r"127\.0\.0\.1:\d+", target["targets"][0])


@pytest.mark.parametrize("name", promql.alerts())
def test_what_an_alert_asks_for_is_there(stack: Stack, name: str) -> None:
    query = promql.alerts()[name]["expr"]
    # No caller of this stack is refused so.
    allowed = {f"no ml_refusals_total with reason={reason}" for reason in ("queue_full", "rate_limited")}
    assert set(stack.all_metrics().missing(query)) <= allowed


def test_what_the_dashboard_asks_for_is_there(stack: Stack) -> None:
    seen = stack.all_metrics()
    missing = {title: seen.missing(query) for title, query in promql.dashboard_queries().items()}
    assert {title: faults for title, faults in missing.items() if faults} == {}
    for selector, label in promql.variables().values():
        assert seen.missing(f"count by ({label}) ({selector})") == []


def test_the_docs_tell_every_metric_with_its_labels(stack: Stack) -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text().split("## Metrics")[1].partition("## Alerts")[0]
    rows = re.findall(r"^\| `(ml_\w+)` \| (\w+) \| ?(.*?) ?\| .+ \|$", text, re.M)
    told = {name: (kind, {*re.findall(r"`(\w+)`", labels)}) for name, kind, labels in rows}
    assert len(told) == len(rows)
    seen = stack.all_metrics()
    found: dict[str, tuple[str, set[str]]] = {}
    for family in seen.families.values():
        if family.name.startswith("ml_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found[name] = (family.type, labels)
    assert told == found


@pytest.mark.slow
def test_a_real_prometheus_answers_every_query(stack: Stack, tmp_path: Path) -> None:
    """With the configuration of deploy/prometheus/local.yml, but for the ports and the pace."""
    config = yaml.safe_load((promql.DEPLOY / "prometheus" / "local.yml").read_text())
    address = stack.url.removeprefix("http://")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(promql.RULES)]
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] != "flower"]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config).replace("127.0.0.1:8001", address))
    port = free_port()
    command = [str(REPOSITORY / "scripts" / "promtool.sh"), f"--config.file={tmp_path}/prometheus.yml"]
    command += [f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}"]
    with subprocess.Popen(command, env=os.environ | {"PROGRAM": "prometheus"}, stderr=subprocess.DEVNULL) as prometheus:
        try:
            base = f"http://127.0.0.1:{port}/api/v1"

            def ask(query: str) -> list[Any]:
                answer = httpx.get(f"{base}/query", params={"query": query}, timeout=30).json()
                assert answer["status"] == "success", (query, answer)
                found: list[Any] = answer["data"]["result"]
                return found

            def scraped(count: int) -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return len(ask(f"count_over_time(up[1m]) >= {count} and up == 1")) == 2
                return False

            wait_until(lambda: scraped(1), timeout_s=60, what="Prometheus sees the API and the worker")
            _work(stack)  # so that something changes between two scrapes
            wait_until(lambda: scraped(10), timeout_s=60, what="some scrapes")
            empty = [title for title, query in promql.dashboard_queries(interval="1m").items() if not ask(query)]
            assert empty == []
            rules = httpx.get(f"{base}/rules").json()["data"]["groups"][0]["rules"]
            assert {rule["name"] for rule in rules} == {*promql.alerts()}
            assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
            assert "ModelLoadFailed" in {rule["name"] for rule in rules if rule["state"] == "firing"}
        finally:
            prometheus.terminate()
