"""One trace from the caller's request through the queue to the batch, as an OTLP collector gets it from a real API and
real workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys
from tests.collector import Collector, Told, collecting
from tests.conftest import wait_until
from tests.processes import api, worker
from tests.stock_celery import stock_app
from worker.vital import EXIT_SOFTWARE

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
  light:
    handler: tests/e2e/handlers.py:Moody
    versions: {"1": {}}
"""
SPAN = "00f067aa0ba902b7"  # the caller's own
SHORT_LEASE = {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5"}

ONLY_AT_THE_END = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}  # spans are sent


class Traced:
    """The stack, and what its collector has got."""

    def __init__(self, collector: Collector, redis_url: str, http: httpx.Client, models: Path) -> None:
        self.collector, self.redis_url, self.http, self.models = collector, redis_url, http, models

    def submit(self, trace_id: str, model: str = "echo", flags: str = "01", **body: Any) -> str:
        headers = {
            "traceparent": f"00-{trace_id}-{SPAN}-{flags}",
            "tracestate": "vendor=1",
            "X-Request-ID": trace_id[:6],
        }
        answer = self.http.post("/v1/jobs", json={"model": model, "input": 1} | body, headers=headers)
        assert answer.status_code == 202
        job_id: str = answer.json()["id"]
        return job_id

    def ended(self, job_id: str, outcome: str = "succeeded") -> Told:
        """The span of the attempt that ended it so."""

        def found() -> list[Told]:
            spans = self.collector.of_job(job_id, "CONSUMER")
            return [span for span in spans if span.attributes["ml.outcome"] == outcome]

        wait_until(found, timeout_s=60, what=f"the span of a job that {outcome}")
        (span,) = found()
        return span

    def named(self, trace_id: str, name: str) -> Told:
        def found() -> list[Told]:
            return [span for span in self.collector.of_trace(trace_id) if span.name == name]

        wait_until(found, what=f"the span {name}")
        (span,) = found()
        return span

    @contextmanager
    def worker(self, name: str, **more: str) -> Iterator[Any]:
        """One more, for the model light alone."""
        env = self.collector.env | SHORT_LEASE | {"ML_MODELS": "light"} | more
        with worker(self.redis_url, self.models, name, **env) as process:
            yield process


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    models = folder / "models.yaml"
    models.write_text(MODELS)
    with collecting() as collector:
        with (
            EmbeddedServer(folder / "redis") as server,
            api(server.url, models, **collector.env) as url,
            worker(server.url, models, "w1", ML_MODELS="echo", **collector.env),
            httpx.Client(base_url=url, timeout=60) as http,
        ):
            yield Traced(collector, server.url, http, models)
        foreign = {
            span.name for span in collector.spans if span.kind == "SERVER" and "ml.request_id" not in span.attributes
        }
        assert not foreign, "FastAPI would trace each request once more"


def test_one_trace_from_the_caller_to_the_batch(traced: Traced) -> None:
    trace_id = "a1" * 16
    job_id = traced.submit(trace_id)
    process = traced.ended(job_id)
    server, submit = traced.named(trace_id, "POST /v1/jobs"), traced.named(trace_id, "submit ml.echo.1")
    predict = traced.named(trace_id, "predict echo@1")
    assert len(traced.collector.of_trace(trace_id)) == 4
    assert [server.parent_id, submit.parent_id, process.parent_id, predict.parent_id] == [
        SPAN,
        server.span_id,
        submit.span_id,
        process.span_id,
    ]
    assert [span.kind for span in (server, submit, process, predict)] == ["SERVER", "PRODUCER", "CONSUMER", "INTERNAL"]
    assert [span.service for span in (server, submit, process, predict)] == ["ml-service-api"] * 2 + [
        "ml-service-worker"
    ] * 2
    assert process.instance == predict.attributes["ml.worker"] == "w1"
    assert predict.links == {(trace_id, process.span_id)}
    assert process.links == {(trace_id, predict.span_id)}
    assert server.attributes["http.route"] == "/v1/jobs"
    assert server.attributes["http.response.status_code"] == 202
    assert {span.attributes["ml.job_id"] for span in (server, submit, process)} == {job_id}
    assert {span.attributes["ml.request_id"] for span in (server, process)} == {trace_id[:6]}
    assert process.attributes["ml.attempt"] == process.attributes["ml.batch_size"] == 1
    assert not any(span.failed for span in (server, submit, process, predict))


def test_a_batch_of_several_callers(traced: Traced) -> None:
    """While the device is busy five jobs come; four of them are sampled."""
    busy = traced.submit("b0" * 16, parameters={"sleep_ms": 800})
    with redis.Redis.from_url(traced.redis_url) as store:
        wait_until(lambda: store.hget(f"{keys.JOB}{busy}", "state") == b"running", what="the device is busy")
    traces = [f"b{number}" * 16 for number in range(1, 5)]
    unsampled = traced.submit("bf" * 16, flags="00")
    jobs = [traced.submit(trace_id) for trace_id in traces]
    spans = [traced.ended(job_id) for job_id in jobs]
    (batch,) = {next(iter(span.links)) for span in spans}
    assert batch[0] == traces[0], "it is in the trace of the first that is sampled"
    predict = traced.named(traces[0], "predict echo@1")
    assert batch[1] == predict.span_id
    assert predict.parent_id == spans[0].span_id
    assert predict.links == {(span.trace_id, span.span_id) for span in spans}
    assert predict.attributes["messaging.batch.message_count"] == 5
    assert traced.http.get(f"/v1/jobs/{unsampled}", params={"wait": 20}).json()["state"] == "succeeded"
    assert traced.collector.of_trace("bf" * 16) == []


@pytest.mark.long
def test_a_job_that_is_redelivered(traced: Traced, tmp_path: Path) -> None:
    """Each attempt has a span in the same trace; of a worker that is killed only the next one tells. The others send
    what they have when they end, at the latest."""
    lost, killed = tmp_path / "lost", tmp_path / "killed"
    for flag in (lost, killed):
        flag.touch()
    trace_id, other = "c1" * 16, "c2" * 16
    with traced.worker("first", **ONLY_AT_THE_END) as first:
        job_id = traced.submit(trace_id, "light", input={"do": "lose-device", "flag": str(lost)})
        assert first.wait(60) == EXIT_SOFTWARE
    lost.unlink()
    attempt = traced.ended(job_id, "given_back_crashed")
    assert traced.named(trace_id, "predict light@1").failed
    with traced.worker("second") as second:
        again = traced.ended(job_id)
        assert (attempt.attributes["ml.attempt"], again.attributes["ml.attempt"]) == (1, 2)
        assert (attempt.instance, again.instance) == ("first", "second")
        assert attempt.parent_id == again.parent_id == traced.named(trace_id, "submit ml.light.1").span_id
        assert attempt.trace_id == again.trace_id == trace_id
        job_id = traced.submit(other, "light", input={"do": "hang", "flag": str(killed)})
        wait_until(lambda: traced.http.get(f"/v1/jobs/{job_id}").json()["state"] == "running", what="it runs")
        os.kill(second.pid, signal.SIGKILL)
        second.wait()
    killed.unlink()
    with traced.worker("third", **ONLY_AT_THE_END):
        assert traced.http.get(f"/v1/jobs/{job_id}", params={"wait": 40}).json()["state"] == "succeeded"
        assert traced.collector.of_job(job_id, "CONSUMER") == []
    again = traced.ended(job_id)
    assert again.attributes["ml.attempt"] == 2
    assert again.instance == "third"
    assert again.parent_id == traced.named(other, "submit ml.light.1").span_id
    assert traced.collector.of_job(job_id, "CONSUMER") == [again]


def test_a_plain_celery_producer(traced: Traced) -> None:
    trace_id = "d1" * 16
    headers = {"traceparent": f"00-{trace_id}-{SPAN}-01", "tracestate": "vendor=1", "ml_request_id": "mine"}
    with stock_app(traced.redis_url) as producer:
        result = producer.send_task("ml.predict", kwargs={"model": "echo", "input": 1}, queue="ml", headers=headers)
        assert result.get(timeout=20) == 1
    process = traced.ended(result.id)
    assert (process.trace_id, process.parent_id) == (trace_id, SPAN)
    assert process.attributes["ml.request_id"] == "mine"
    with redis.Redis.from_url(traced.redis_url, decode_responses=True) as store:
        record = store.hgetall(f"{keys.JOB}{result.id}")
    assert {name: record[name] for name in ("traceparent", "tracestate", "request_id")} == {
        "traceparent": headers["traceparent"],
        "tracestate": "vendor=1",
        "request_id": "mine",
    }


def test_a_refusal_and_a_failure(traced: Traced) -> None:
    """What a span tells of them: a code, and no words."""
    trace_id = "e1" * 16
    headers = {"traceparent": f"00-{trace_id}-{SPAN}-01"}
    marker = "the input of e1"
    body = {"model_type": "echo", "data": marker, "parameters": {"fail": marker}}
    assert traced.http.post("/inference", json=body, headers=headers).status_code == 500
    server = traced.named(trace_id, "POST /inference")
    assert server.failed
    process = traced.ended(server.attributes["ml.job_id"], "predict_error")
    assert process.failed
    assert process.attributes["error.type"] == "predict_error"
    assert (
        traced.http.post("/inference", json={"model_type": marker}, headers={"traceparent": "nonsense"}).status_code
        >= 400
    )
    assert traced.http.get("/livez", headers={"traceparent": f"00-{'e2' * 16}-{SPAN}-01"}).status_code == 200
    wait_until(
        lambda: [
            span for span in traced.collector.spans if span.attributes.get("http.response.status_code") in (404, 422)
        ]
    )
    assert marker not in repr(traced.collector.spans)
    assert traced.collector.of_trace("e2" * 16) == [], "probes have no span"
