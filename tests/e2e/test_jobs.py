"""The contract of jobs through real processes: order, end, list, events and progress, as a caller sees them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.embedded import EmbeddedServer
from shared.queue import make_celery
from shared.settings import Settings
from tests.conftest import wait_until
from tests.processes import api, worker

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 16}
  moody:
    handler: tests/e2e/handlers.py:Moody
    versions: {"1": {}}
    batch: {max_size: 8}
"""


@pytest.fixture(scope="module")
def own_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a Redis server."""
    with EmbeddedServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="module")
def http(own_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a stack without torch, which is soon ready."""
    models = tmp_path_factory.mktemp("jobs") / "models.yaml"
    models.write_text(MODELS)
    with (
        worker(own_url, models),
        api(own_url, models) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


@pytest.fixture
def prepared(own_url: str) -> Iterator[Callable[[], int]]:
    """How many units wait in the worker for the device."""
    app = make_celery(Settings(redis_url=own_url))

    def count() -> int:
        answers = app.control.inspect(timeout=1, limit=1).stats() or {}
        return sum(int(stats["pool"]["waiting-units"]) for stats in answers.values())

    yield count
    app.close()


def submit(http: httpx.Client, model: str, value: Any, **more: Any) -> str:
    answer = http.post("/v1/jobs", json={"model": model, "input": value} | more)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def read(http: httpx.Client, job_id: str, wait: int = 0) -> dict[str, Any]:
    job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}", params={"wait": wait}).json()
    return job


def events(http: httpx.Client, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """As they come, to the end of the stream."""
    with http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        assert answer.status_code == 200
        name = ""
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


def test_a_handler_tells_how_far_it_is(http: httpx.Client) -> None:
    job_id = submit(http, "moody", {"do": "tell", "n": 6})
    seen = list(events(http, job_id))
    assert [name for name, _ in seen if name != "progress"] == ["queued", "running", "succeeded"]
    told = [job["progress"] for name, job in seen if name == "progress"]
    assert len(told) >= 2, "twice a second, of six steps in 1.8 s"
    assert all(one["message"] == f"page {round(one['fraction'] * 6)} of 6" for one in told)
    fractions = [one["fraction"] for one in told]
    assert fractions == sorted(set(fractions))
    assert seen[-1][1]["progress"]["fraction"] == 1.0
    assert seen[-1][1] == read(http, job_id)


def test_items_that_have_ended_count_by_themselves(http: httpx.Client) -> None:
    """24 items in batches of 8, by a handler that tells nothing."""
    job_id = submit(http, "moody", [{"do": "slow", "n": n} for n in range(24)])
    seen = list(events(http, job_id))
    told = [job["progress"]["fraction"] for name, job in seen if name == "progress"]
    assert told
    assert set(told) <= {0.3333, 0.6667}, "a third after each batch"
    assert seen[-1][1]["state"] == "succeeded"


def test_progress_is_of_the_callers_own_items(http: httpx.Client, prepared: Callable[[], int], tmp_path: Path) -> None:
    """In a batch of several jobs each is told its own, whatever its place."""
    (flag := tmp_path / "held").touch()
    blocker = submit(http, "moody", {"do": "hold", "flag": str(flag)})
    wait_until(lambda: read(http, blocker)["state"] == "running")
    ids = [submit(http, "moody", {"do": "tell", "n": n}) for n in (2, 3, 5)]
    wait_until(lambda: prepared() == 3)
    flag.unlink()
    with ThreadPoolExecutor(3) as threads:
        streams = list(threads.map(lambda job_id: list(events(http, job_id)), ids))
    assert read(http, blocker, wait=10)["state"] == "succeeded"
    for n, seen in zip((2, 3, 5), streams, strict=True):
        messages = {job["progress"]["message"] for name, job in seen if name == "progress"}
        assert messages <= {f"page {step} of {n}" for step in range(1, n + 1)}
        assert seen[-1][1]["timing"]["batch_size"] == 3
    assert sum(name == "progress" for name, _ in streams[2]) >= 1


def test_echo_tells_of_its_sleep(http: httpx.Client) -> None:
    job_id = submit(http, "echo", {"a": 1}, parameters={"sleep_ms": 1500})
    seen = list(events(http, job_id))
    fractions = [job["progress"]["fraction"] for name, job in seen if name == "progress"]
    assert len(fractions) >= 2
    assert fractions == sorted(fractions)
    assert seen[-1][1]["output"] == {"a": 1}


def test_the_urgent_go_first(http: httpx.Client) -> None:
    """Batches of moody are of 8: a full one of each, submitted the least urgent first."""
    blocker = submit(http, "moody", {"do": "tell", "n": 12})
    wait_until(lambda: read(http, blocker)["state"] == "running", what="the device is busy")
    ids = {
        priority: [submit(http, "moody", {"do": "slow", "n": n}, priority=priority) for n in range(8)]
        for priority in ("low", "normal", "high")
    }
    ended = {
        priority: [read(http, job_id, wait=20)["finished_at"] for job_id in some] for priority, some in ids.items()
    }
    assert max(ended["high"]) < min(ended["normal"])
    assert max(ended["normal"]) < min(ended["low"])
    assert read(http, ids["low"][0])["priority"] == "low"


def test_a_cancel_of_what_waits_and_of_what_runs(http: httpx.Client) -> None:
    running = submit(http, "echo", {"a": 1}, parameters={"sleep_ms": 1500})
    wait_until(lambda: read(http, running)["state"] == "running", what="it runs")
    queued = submit(http, "echo", {"b": 1}, priority="low")
    gone = http.delete(f"/v1/jobs/{queued}").json()
    assert (gone["state"], gone["started_at"], gone["error"]["code"]) == ("canceled", None, "canceled")
    marked = http.delete(f"/v1/jobs/{running}").json()
    assert marked["state"] == "running", "it ends with its batch"
    ended = read(http, running, wait=20)
    assert (ended["state"], ended["output"], ended["error"]["code"]) == ("canceled", None, "canceled")
    assert http.delete(f"/v1/jobs/{running}").json() == ended, "an ended one stays as it is"
    assert http.get(f"/v1/jobs/{running}/output").status_code == 409


def test_a_deadline_ends_what_waits_and_what_runs(http: httpx.Client) -> None:
    running = submit(http, "echo", 1, parameters={"sleep_ms": 4000}, deadline_s=1)
    wait_until(lambda: read(http, running)["state"] == "running", what="it runs")
    queued = submit(http, "echo", 2, deadline_s=0.5)
    ends = [read(http, job_id, wait=20) for job_id in (queued, running)]
    assert [(job["state"], job["error"]["code"]) for job in ends] == [("failed", "deadline_exceeded")] * 2
    assert all(job["finished_at"] >= job["deadline_at"] for job in ends)
    assert http.get(f"/v1/jobs/{queued}/output").json()["code"] == "deadline_exceeded"


def test_a_result_lives_as_long_as_asked(http: httpx.Client) -> None:
    short = submit(http, "echo", 1, result_ttl_s=1, labels={"test": "ttl"})
    long = submit(http, "echo", 2, labels={"test": "ttl"})
    assert read(http, short, wait=20)["state"] == read(http, long, wait=20)["state"] == "succeeded"
    wait_until(lambda: http.get(f"/v1/jobs/{short}").status_code == 404, timeout_s=10, what="it has expired")
    listed = http.get("/v1/jobs", params={"label": "test:ttl"}).json()["data"]
    assert [job["id"] for job in listed] == [long]


def test_prefer_waits_and_tells_the_honest_state(http: httpx.Client) -> None:
    def ask(sleep_ms: int, prefer: str) -> httpx.Response:
        body = {"model": "echo", "input": 1, "parameters": {"sleep_ms": sleep_ms}}
        return http.post("/v1/jobs", json=body, headers={"Prefer": prefer})

    done, slow, at_once = ask(0, "wait=20"), ask(1500, "wait=1"), ask(0, "respond-async")
    assert (done.status_code, done.json()["state"], done.json()["output"]) == (200, "succeeded", 1)
    assert (slow.status_code, slow.json()["state"]) == (202, "running")
    assert (at_once.status_code, at_once.json()["state"]) == (202, "queued")
    applied = [answer.headers["preference-applied"] for answer in (done, slow, at_once)]
    assert applied == ["wait=20", "wait=1", "respond-async"]
    assert read(http, slow.json()["id"], wait=20)["state"] == "succeeded"


def test_labels_and_states_find_jobs(http: httpx.Client) -> None:
    labels = {"suite": "jobs", "tenant": "acme"}
    ids = [submit(http, "echo", n, labels=labels, parameters={"fail": "no"} if n == 1 else {}) for n in range(3)]
    for job_id in ids:
        read(http, job_id, wait=20)
    found = http.get("/v1/jobs", params={"label": ["suite:jobs", "tenant:acme"], "limit": 2}).json()
    assert [job["id"] for job in found["data"]] == [ids[2], ids[1]]
    assert found["data"][1]["error"]["code"] == "predict_error"
    rest = http.get("/v1/jobs", params={"label": "suite:jobs", "limit": 2, "cursor": found["next"]}).json()
    assert ([job["id"] for job in rest["data"]], rest["next"]) == ([ids[0]], None)
    failed = http.get("/v1/jobs", params={"label": "suite:jobs", "state": "failed,canceled"}).json()["data"]
    assert [job["id"] for job in failed] == [ids[1]]
