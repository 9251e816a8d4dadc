"""Workers come, stop, die and hang; what was accepted ends once all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from celery import Celery

from local.embedded import EmbeddedServer
from shared import keys
from tests.conftest import wait_until
from tests.processes import REPOSITORY, api, environment, refused_worker, worker
from tests.stock_celery import close_celery

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 16}
  moody:
    handler: tests/e2e/handlers.py:Moody
    versions: {"1": {}}
    limits: {timeout_s: 1}
"""
SECOND = {"sleep_ms": 1000}
QUICK = {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5"}


@pytest.fixture
def http(redis_url: str, models: Path) -> Iterator[httpx.Client]:
    """An API without a worker."""
    with api(redis_url, models) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def _submit(http: httpx.Client, n: int, *, model: str = "echo", **body: Any) -> list[str]:
    ids = []
    for index in range(n):
        answer = http.post("/v1/jobs", json={"model": model, "input": {"n": index}} | body)
        assert answer.status_code == 202
        ids.append(answer.json()["id"])
    return ids


def _ended(http: httpx.Client, job_id: str, *, wait_s: int = 40) -> dict[str, Any]:
    job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}", params={"wait": wait_s}).json()
    return job


def test_jobs_wait_for_a_worker(http: httpx.Client, redis_url: str, models: Path) -> None:
    (job_id,) = _submit(http, 1)
    assert http.get("/readyz").status_code == 200
    assert http.get("/readyz", params={"model": "echo"}).status_code == 503
    with worker(redis_url, models):
        assert _ended(http, job_id)["output"] == {"n": 0}
        wait_until(lambda: http.get("/readyz", params={"model": "echo"}).status_code == 200)


def test_a_deadline_holds_with_no_worker_alive(http: httpx.Client) -> None:
    (job_id,) = _submit(http, 1, deadline_s=0.5)
    assert _ended(http, job_id)["error"]["code"] == "deadline_exceeded"


def test_kill_9_in_mid_batch(http: httpx.Client, redis_url: str, models: Path, store: redis.Redis) -> None:
    with worker(redis_url, models, "first", **QUICK) as first:
        ids = _submit(http, 40, parameters={"sleep_ms": 400})
        wait_until(lambda: store.hlen(keys.UNACKED) > 16, what="a batch runs and others are held")
        wait_until(lambda: http.get(f"/v1/jobs/{ids[0]}").json()["state"] != "queued")
        first.send_signal(signal.SIGKILL)
        first.wait()
        with worker(redis_url, models, "second", **QUICK):
            jobs = [_ended(http, job_id) for job_id in ids]
    assert [job["output"] for job in jobs] == [{"n": n} for n in range(40)]
    assert {job["timing"]["worker"] for job in jobs} >= {"second"}
    assert store.hlen(keys.UNACKED) == store.zcard(keys.LEASES) == 0
    counters = {name.decode(): int(n) for name, n in store.hgetall(f"{keys.COUNTERS}echo@1").items()}
    assert (counters["queued"], counters["running"], counters["succeeded"]) == (0, 0, 40)


def test_sigterm_finishes_the_batch_and_gives_the_rest_back(
    http: httpx.Client, redis_url: str, models: Path, store: redis.Redis
) -> None:
    with worker(redis_url, models, "first") as first:
        ids = _submit(http, 100, parameters={"sleep_ms": 500})
        wait_until(lambda: http.get(f"/v1/jobs/{ids[0]}").json()["state"] != "queued")
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
    assert store.hlen(keys.UNACKED) == 0
    states = [http.get(f"/v1/jobs/{job_id}").json()["state"] for job_id in ids]
    assert set(states) == {"succeeded", "queued"}
    assert not list(store.scan_iter(f"{keys.WORKER}*")), "it has left"
    with worker(redis_url, models, "second"):
        jobs = [_ended(http, job_id) for job_id in ids]
    assert [job["output"]["n"] for job in jobs] == list(range(100))
    assert {job["attempt"] for job in jobs} == {1}, "nothing ran twice"


@pytest.mark.long
def test_a_crash_in_native_code_hurts_only_its_own_job(http: httpx.Client, redis_url: str, models: Path) -> None:
    good = _submit(http, 3, model="moody")
    (poison,) = _submit(http, 1, model="moody", input={"do": "abort"})
    good += _submit(http, 3, model="moody")
    starts = 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-m", "worker"],
            env=environment(redis_url, models, ML_WORKER_NAME="moody", **QUICK),
            cwd=REPOSITORY,
        )
        starts += 1
        wait_until(
            lambda process=process: (
                process.poll() is not None or http.get(f"/v1/jobs/{poison}").json()["state"] == "failed"
            ),
            timeout_s=40,
        )
        if process.poll() is None:
            break
    try:
        assert _ended(http, poison)["error"]["code"] == "attempts_exhausted"
        assert [_ended(http, job_id)["state"] for job_id in good] == ["succeeded"] * 6
        assert starts == 5, "one crash in company, three alone"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.long
def test_a_predict_that_hangs(http: httpx.Client, redis_url: str, models: Path) -> None:
    with worker(redis_url, models, "first", **QUICK) as first:
        (stuck,) = _submit(http, 1, model="moody", input={"do": "hang"})
        wait_until(lambda: http.get(f"/v1/jobs/{stuck}").json()["state"] == "running")
        (behind,) = _submit(http, 1)
        assert first.wait(20) == 70
    assert _ended(http, stuck)["error"]["code"] == "timeout"
    with worker(redis_url, models, "second", **QUICK):
        assert _ended(http, behind)["state"] == "succeeded"


@pytest.mark.long
def test_time_limit_of_a_plain_celery_job(redis_url: str, models: Path, store: redis.Redis) -> None:
    """It ends the job, not the worker, and not what shares the batch; one that is longer than the model's holds too."""
    app = Celery("backend", broker=redis_url, backend=redis_url, set_as_current=False)
    with worker(redis_url, models, "first", **QUICK) as first:

        def send(model: str, input: Any, **options: Any) -> Any:
            return app.send_task("ml.predict", kwargs={"model": model, "input": input}, queue="ml", **options)

        gate = app.send_task("ml.predict", kwargs={"model": "echo", "input": 0, "parameters": SECOND}, queue="ml")
        patient = send("moody", {"do": "long", "n": 1}, time_limit=30)
        mates = [send("moody", {"do": "half", "n": n}) for n in (2, 3)]
        hasty = send("moody", {"do": "half", "n": 4}, time_limit=0.2)
        assert gate.get(timeout=20) == 0
        with pytest.raises(Exception, match=r"longer than 0\.2 s"):
            hasty.get(timeout=20)
        assert [mate.get(timeout=20)["n"] for mate in mates] == [2, 3]
        assert patient.get(timeout=30)["n"] == 1, "5 s, where the model may take 1"
        assert store.hget(keys.JOB + mates[0].id, "attempt") == b"1"
        assert first.poll() is None
    close_celery(app)


@pytest.mark.long
@pytest.mark.parametrize("away", ["killed", "frozen"])
def test_sigterm_while_redis_is_away(tmp_path: Path, models: Path, away: str) -> None:
    """It ends within the grace and a moment, and what it held is done by another once Redis is back."""
    with (
        EmbeddedServer(tmp_path / "redis") as server,
        api(server.url, models) as url,
        httpx.Client(base_url=url, timeout=60) as http,
        worker(server.url, models, "first", ML_GRACE_S="3", **QUICK) as first,
        redis.Redis.from_url(server.url) as store,
    ):
        ids = _submit(http, 60, parameters={"sleep_ms": 300})
        wait_until(lambda: store.hlen(keys.UNACKED) > 16, what="a batch runs and others are held")
        if away == "killed":
            server.stop()
        else:
            os.kill(server.pid, signal.SIGSTOP)
        try:
            first.terminate()
            assert first.wait(3 + 15) == 0
        finally:
            if away == "killed":
                server.start()
            else:
                os.kill(server.pid, signal.SIGCONT)
        with worker(server.url, models, "second", **QUICK):
            assert [_ended(http, job_id)["output"] for job_id in ids] == [{"n": n} for n in range(60)]
        assert store.hlen(keys.UNACKED) == store.hlen(keys.HOLDERS) == store.zcard(keys.LEASES) == 0
        store.close()


@pytest.mark.long
def test_a_record_that_no_script_can_read_spoils_nothing_else(
    http: httpx.Client, redis_url: str, models: Path, store: redis.Redis
) -> None:
    """Somebody's hand in the database, before a claim and before a finish."""
    with worker(redis_url, models, **QUICK) as process:
        (gate,) = _submit(http, 1, parameters={"sleep_ms": 3000})
        wait_until(lambda: store.hget(keys.JOB + gate, "state") == b"running", what="it runs")
        ids = _submit(http, 8)
        wait_until(lambda: store.hlen(keys.UNACKED) == 9, what="the others are held, and will be one batch")
        assert store.hget(keys.JOB + ids[0], "state") == b"queued"
        for broken in (gate, ids[0]):
            store.set(keys.JOB + broken, "no hash", px=60_000)
        assert [_ended(http, job_id)["output"] for job_id in ids[1:]] == [{"n": n} for n in range(1, 8)]
        (overdue,) = _submit(http, 1, parameters={"sleep_ms": 3000}, deadline_s=1)
        assert _ended(http, overdue)["error"]["code"] == "deadline_exceeded", "the sweep goes on"
        wait_until(lambda: store.hlen(keys.UNACKED) <= 1, what="they are not held for ever")
        wait_until(lambda: store.xlen(keys.DEAD) >= 1, what="a letter is kept")
        assert process.poll() is None


@pytest.mark.long
def test_redis_restarts_under_work(tmp_path: Path, models: Path) -> None:
    with (
        EmbeddedServer(tmp_path / "redis") as server,
        worker(server.url, models) as process,
        api(server.url, models) as url,
        httpx.Client(base_url=url) as http,
    ):
        ids = _submit(http, 60, parameters={"sleep_ms": 300})
        server.stop()
        assert http.post("/v1/jobs", json={"model": "echo", "input": 1}).status_code == 503
        server.start()
        wait_until(lambda: http.get("/readyz").status_code == 200)
        jobs = [_ended(http, job_id, wait_s=4) for job_id in ids]
        assert [job["output"]["n"] for job in jobs] == list(range(60))
        assert {job["attempt"] for job in jobs} == {1}
        assert process.poll() is None


def test_two_workers_share(http: httpx.Client, redis_url: str, models: Path) -> None:
    with worker(redis_url, models, "one"), worker(redis_url, models, "two"):
        ids = _submit(http, 120, parameters={"sleep_ms": 100})
        assert {_ended(http, job_id)["timing"]["worker"] for job_id in ids} == {"one", "two"}


def test_healthcheck(redis_url: str, models: Path) -> None:
    env = environment(redis_url, models, ML_WORKER_NAME="checked")
    check = [sys.executable, "-m", "worker", "healthcheck"]
    assert subprocess.run(check, env=env, cwd=REPOSITORY, check=False).returncode == 1
    with worker(redis_url, models, "checked"):
        assert subprocess.run(check, env=env, cwd=REPOSITORY, check=False).returncode == 0
    assert subprocess.run(check, env=env, cwd=REPOSITORY, check=False).returncode == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models:\n  a:\n    task: nonsense\n    versions: {'1': {}}\n", "line 2: models.a: "),
        ("models:\n  a:\n    task: echo\n    version: {'1': {}}\n", "line 4: models.a.version: "),
        ("models:\n  a:\n    handler: gone.py:X\n    versions: {'1': {}}\n", "gone.py"),
        ("models: [", "not valid YAML"),
    ],
)
def test_a_wrong_models_file_is_refused_with_its_place(redis_url: str, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    run = refused_worker(environment(redis_url, path))
    assert run.returncode == 1
    assert told in run.stderr


def test_no_redis_is_told_in_one_line(models: Path) -> None:
    run = refused_worker(environment("redis://127.0.0.1:1/0", models))
    assert run.returncode == 1
    assert "Redis does not answer" in run.stderr
    assert "Traceback" not in run.stderr
