"""A real Flower in front of the stack: who has no password sees nothing, what it lists is true, its revoke button ends
a job for who waits, and what it has seen outlives it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys
from tests.conftest import wait_until
from tests.processes import FLOWER, REPOSITORY, environment, flower_process

pytestmark = pytest.mark.long  # more processes of other people's

PATHS = ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks", "/api/queues/length")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Flower's password and what it has seen."""
    return tmp_path_factory.mktemp("flower")


@pytest.fixture(scope="module")
def flower(stack: str, stack_server: EmbeddedServer, models_file: Path, folder: Path) -> Iterator[httpx.Client]:
    with flower_process(stack_server.url, models_file, folder=folder) as client:
        yield client


@pytest.fixture
def post(http: httpx.Client) -> Callable[..., str]:
    """Submits a job; its id."""

    def submit(**body: Any) -> str:
        job_id: str = http.post("/v1/jobs", json={"model": "echo", "input": "a private text"} | body).json()["id"]
        return job_id

    return submit


def task(flower: httpx.Client, job_id: str) -> dict[str, Any]:
    """As Flower has it; empty before it has heard of it."""
    answer = flower.get(f"/api/task/info/{job_id}")
    found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return found


def hears(flower: httpx.Client, post: Callable[..., str]) -> None:
    """Flower hears events only from some moment after it is up. Then it has also heard all that was before."""
    jobs = [(post(), time.monotonic())]

    def hears_of_one() -> bool:
        if time.monotonic() - jobs[-1][1] > 2:  # events are sent four times a second
            jobs.append((post(), time.monotonic()))
        return bool(task(flower, jobs[-1][0]))

    wait_until(hears_of_one, what="Flower hears events")
    last = post()
    wait_until(lambda: task(flower, last).get("state") == "SUCCESS", what="it has heard of what these jobs did")


@pytest.mark.parametrize("login", [None, ("admin", "admin"), ("admin", ""), ("other", "admin")])
def test_nobody_comes_in_without_the_password(flower: httpx.Client, login: tuple[str, str] | None) -> None:
    with httpx.Client(base_url=flower.base_url, auth=login) as stranger:
        assert {path: stranger.get(path).status_code for path in PATHS} == dict.fromkeys(PATHS, 401)
        assert stranger.post("/api/task/revoke/x").status_code == 401
        assert stranger.post("/api/worker/shutdown/x").status_code == 401
        for path in ("/healthcheck", "/metrics"):  # for probes and Prometheus
            assert stranger.get(path).status_code == 200
    assert {path: flower.get(path).status_code for path in PATHS} == dict.fromkeys(PATHS, 200)


def test_a_page_of_another_site_cannot_revoke_with_the_browsers_login(flower: httpx.Client) -> None:
    answer = flower.post("/api/task/revoke/x", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert flower.post("/api/task/revoke/x", headers={"Origin": "http://elsewhere.example"}).status_code == 403


def test_it_does_not_start_without_a_password(stack_server: EmbeddedServer, models_file: Path, folder: Path) -> None:
    for extra, told in (
        ({"FLOWER_UNAUTHENTICATED_API": "true"}, "set FLOWER_PASSWORD_FILE"),
        ({"FLOWER_PASSWORD_FILE": str(folder / "none")}, "FLOWER_PASSWORD_FILE: there is no file"),
    ):
        env = environment(stack_server.url, models_file, **extra)
        ended = subprocess.run(
            [*FLOWER, "--port=0"], env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 1
        assert told in ended.stderr
        assert "Traceback" not in ended.stderr


def test_it_lists_the_truth(flower: httpx.Client, http: httpx.Client, post: Callable[..., str]) -> None:
    hears(flower, post)
    slow = post(parameters={"sleep_ms": 1500})
    wait_until(lambda: task(flower, slow).get("state") == "STARTED", what="it has started")
    failed, canceled, queued = post(parameters={"fail": "x"}), post(), post()
    wait_until(lambda: task(flower, queued).get("state") == "RECEIVED", what="the worker holds it")
    http.delete(f"/v1/jobs/{canceled}")
    states = {slow: "SUCCESS", failed: "FAILURE", canceled: "REVOKED", queued: "SUCCESS"}
    wait_until(lambda: {job: task(flower, job).get("state") for job in states} == states, what="the right states")
    listed = flower.get("/api/tasks", params={"limit": 1000}).json()
    assert {job: listed[job]["state"] for job in states} == states
    assert {listed[job]["name"] for job in states} == {"ml.predict"}
    predicted = http.get(f"/v1/jobs/{slow}").json()["timing"]["predict_ms"] / 1000
    assert predicted >= 1.5
    assert 0.8 < task(flower, slow)["runtime"] / predicted < 1.25
    assert task(flower, slow)["result"] == "echo@1 in a batch of 1"
    assert "predict_error" in task(flower, failed)["exception"]
    assert "a private text" not in str([task(flower, job) for job in states])


def test_a_batch_is_told_by_its_size_and_one_runtime(
    flower: httpx.Client, http: httpx.Client, post: Callable[..., str]
) -> None:
    hears(flower, post)
    before = post(parameters={"sleep_ms": 1000})
    wait_until(lambda: http.get(f"/v1/jobs/{before}").json()["state"] == "running", what="the device is taken")
    jobs = [post(parameters={"sleep_ms": 200}) for _ in range(4)]
    wait_until(lambda: all(task(flower, job).get("state") == "SUCCESS" for job in jobs), what="all have run")
    (runtime,) = {task(flower, job)["runtime"] for job in jobs}
    assert runtime >= 0.2, "the batch's, not a share of it"
    assert {task(flower, job)["result"] for job in jobs} == {"echo@1 in a batch of 4"}
    found = flower.get("/api/tasks", params={"search": 'result:"a batch of 4"'}).json()
    assert set(found) == set(jobs), "the search finds them"


def test_a_worker_shows_its_pool_and_queues(flower: httpx.Client) -> None:
    workers = flower.get("/api/workers", params={"refresh": 1}).json()
    (worker,) = workers.values()
    assert list(workers) == [f"w1@{socket.gethostname()}"]
    pool = worker["stats"]["pool"]
    assert pool["implementation"] == "worker.pool:BatchPool"
    assert "echo@1" in pool["models"]
    queues = {queue["name"] for queue in worker["active_queues"]}
    assert {keys.INTAKE, "ml.echo.1", "ml.bert.1"} <= queues
    lengths = {queue["name"]: queue["messages"] for queue in flower.get("/api/queues/length").json()["active_queues"]}
    assert set(lengths) == queues


def test_revoke_ends_a_queued_job_for_who_waits_and_marks_a_running_one(
    flower: httpx.Client, http: httpx.Client, post: Callable[..., str], stack_store: redis.Redis
) -> None:
    hears(flower, post)
    running = post(parameters={"sleep_ms": 3000})
    wait_until(lambda: http.get(f"/v1/jobs/{running}").json()["state"] == "running")
    queued, behind = post(), post()
    unheard = [post(priority="low") for _ in range(20)][-1]  # a worker takes 16 of these, a batch
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(http.get, f"/v1/jobs/{job}", params={"wait": 30}) for job in (queued, running)]
        for job in (queued, running):
            wait_until(lambda job=job: stack_store.hexists(keys.JOB + job, "waiters"), what="somebody waits")
        assert flower.post(f"/api/task/revoke/{queued}").status_code == 200
        ended = waits[0].result().json()
        assert (ended["state"], ended["started_at"]) == ("canceled", None)
        assert not task(flower, unheard)
        assert flower.post(f"/api/task/revoke/{unheard}").status_code == 200
        ended = http.get(f"/v1/jobs/{unheard}", params={"wait": 30}).json()
        assert (ended["state"], ended["started_at"]) == ("canceled", None)
        assert http.get(f"/v1/jobs/{running}").json()["state"] == "running", "before what ran at that time has ended"
        # `terminate` would end the process; here it is a mark like any other, and the batch ends by itself
        assert flower.post(f"/api/task/revoke/{running}", params={"terminate": "true"}).status_code == 200
        wait_until(lambda: stack_store.hget(keys.JOB + running, "canceled") == b"1", what="it is marked")
        assert waits[1].result().json()["state"] == "canceled"
    assert http.get(f"/v1/jobs/{behind}", params={"wait": 30}).json()["state"] == "succeeded"
    states = {queued: "REVOKED", running: "REVOKED", behind: "SUCCESS"}
    wait_until(lambda: {job: task(flower, job).get("state") for job in states} == states, what="Flower knows")


def test_its_metrics_count_our_tasks(flower: httpx.Client, http: httpx.Client, post: Callable[..., str]) -> None:
    hears(flower, post)
    before = counts(flower)
    good, bad = [post() for _ in range(5)], post(parameters={"fail": "x"})
    for job in (*good, bad):
        http.get(f"/v1/jobs/{job}", params={"wait": 30})
    expected = {"task-received": 6, "task-started": 6, "task-succeeded": 5, "task-failed": 1}

    def fresh() -> dict[str, int]:
        now = counts(flower)
        return {kind: now[kind] - before.get(kind, 0) for kind in expected}

    wait_until(lambda: fresh() == expected, what="all are counted")


def counts(flower: httpx.Client) -> dict[str, int]:
    """Events by type."""
    found = {}
    for line in httpx.get(f"{flower.base_url}/metrics").text.splitlines():
        if line.startswith('flower_events_total{task="ml.predict"'):
            found[line.partition('type="')[2].partition('"')[0]] = int(float(line.rpartition(" ")[2]))
    return found


def test_what_it_has_seen_outlives_it(
    stack_server: EmbeddedServer, stack: str, models_file: Path, tmp_path: Path, post: Callable[..., str]
) -> None:
    with flower_process(stack_server.url, models_file, folder=tmp_path) as first:
        hears(first, post)
        job, failed = post(), post(parameters={"fail": "x"})
        wait_until(lambda: (task(first, job).get("state"), task(first, failed).get("state")) == ("SUCCESS", "FAILURE"))
        known = [task(first, job), task(first, failed)]
    with flower_process(stack_server.url, models_file, folder=tmp_path) as second:
        assert [task(second, job), task(second, failed)] == known
