"""Lazy models in a real worker: loaded when jobs wait, unloaded when nobody needs them, within the memory there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from shared import keys
from tests.conftest import wait_until
from tests.processes import api, environment, refused_worker, worker

pytestmark = pytest.mark.long

MB = 80
MODELS = f"""
models:
  echo:
    task: echo
    versions: {{"1": {{}}}}
  one: &large
    handler: tests/e2e/handlers.py:Large
    versions: {{"1": {{mb: {MB}}}}}
    load: lazy
    keep_alive_s: 600
    batch: {{max_size: 4}}
  two: *large
  three: *large
  brief:
    handler: tests/e2e/handlers.py:Large
    versions: {{"1": {{mb: {MB}}}}}
    load: lazy
    keep_alive_s: 1.5
"""
LARGE = ("one", "two", "three", "brief")


@pytest.fixture
def http(redis_url: str, models: Path) -> Iterator[httpx.Client]:
    with api(redis_url, models) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def _submit(http: httpx.Client, model: str, **order: Any) -> str:
    answer = http.post("/v1/jobs", json={"model": model, "input": order})
    assert answer.status_code == 202
    job_id: str = answer.json()["id"]
    return job_id


def _ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}", params={"wait": 40}).json()
    assert job["state"] == "succeeded", job
    return job


def _states(http: httpx.Client, model: str) -> list[str]:
    """Of its version 1, on each worker."""
    (version,) = http.get(f"/v1/models/{model}").json()["versions"]
    return [one["state"] for one in version["workers"]]


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def _most_resident_mb(pid: int) -> float:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def test_it_comes_with_its_first_job_and_goes_with_its_keep_alive(
    http: httpx.Client, redis_url: str, models: Path, store: redis.Redis
) -> None:
    early = _submit(http, "brief")
    assert http.get(f"/v1/jobs/{early}").json()["waiting_for"]["code"] == "worker"
    with worker(redis_url, models, ML_HEARTBEAT_S="0.5") as process:
        assert _ended(http, early)["timing"]["queue_ms"] >= 1000, "it waited in the queue while the model was loaded"
        wait_until(lambda: _states(http, "brief") == ["ready"], what="its card says so")
        (version,) = http.get("/v1/models/brief").json()["versions"]
        assert version["workers"][0]["memory"]["host_bytes"] >= MB * 0.9e6
        metric = 'ml_model_memory_bytes{memory="host",model="brief",version="1",worker="w1"} '
        (told,) = (line for line in http.get("/metrics").text.splitlines() if line.startswith(metric))
        assert float(told.removeprefix(metric)) > MB * 800_000
        wait_until(lambda: _states(http, "brief") == ["unloaded"], what="it goes when nobody has used it")
        assert metric not in http.get("/metrics").text
        assert _resident_mb(process.pid) < _most_resident_mb(process.pid) - MB * 0.8
        assert _states(http, "echo") == ["ready"], "a preloaded one stays"
        assert http.get("/readyz", params={"model": "brief"}).status_code == 200, "it would be loaded"
        again = _submit(http, "brief", do="slow")
        waits = http.get(f"/v1/jobs/{again}").json()["waiting_for"]
        assert waits["code"] == "model"
        assert "w1" in waits["message"]
        _ended(http, again)
        wait_until(lambda: _states(http, "brief") == ["unloaded"], what="it goes again")
        wrong = http.post("/v1/jobs", json={"model": "brief", "input": {"n": "x"}})
        assert wrong.status_code == 422, "checked all the same"
    assert store.hlen(keys.UNACKED) == 0


def test_more_models_than_fit_take_turns(http: httpx.Client, redis_url: str, models: Path, store: redis.Redis) -> None:
    """Memory for two of four. Nobody waits for ever, nothing fails, and never are more than two loaded."""
    memory = f"{int(MB * 2.6)}MB"
    with worker(redis_url, models, ML_MODEL_MEMORY=memory, ML_HEARTBEAT_S="0.5", ML_LOG_FORMAT="text") as process:
        base = _resident_mb(process.pid)
        ids = [_submit(http, model, n=n) for n in range(3) for model in LARGE]
        ids += [http.post("/v1/jobs", json={"model": "echo", "input": n}).json()["id"] for n in range(5)]
        most = 0.0

        def all_ended() -> bool:
            nonlocal most
            most = max(most, _resident_mb(process.pid))
            return int(store.hget(f"{keys.COUNTERS}brief@1", "succeeded") or 0) == 3 and all(
                int(store.hget(f"{keys.COUNTERS}{model}@1", "succeeded") or 0) == 3 for model in LARGE
            )

        wait_until(all_ended, timeout_s=90, what="all models had their turn")
        assert {_ended(http, job_id)["attempt"] for job_id in ids} == {1}
        assert most - base < MB * 4.3, "two of them, and one that is being built, in two copies"


def test_a_model_that_others_keep_out_gets_its_turn(http: httpx.Client, redis_url: str, models: Path) -> None:
    """Memory for one, which always has work: it drains when the other has waited long enough."""
    with worker(redis_url, models, ML_MODEL_MEMORY=f"{int(MB * 1.5)}MB", ML_HEARTBEAT_S="0.5"):
        busy = [_submit(http, "one", do="slow", n=n) for n in range(300)]
        _ended(http, busy[0])
        other = _ended(http, _submit(http, "two"))
        assert other["timing"]["queue_ms"] < 30_000
        assert http.get(f"/v1/jobs/{busy[-1]}").json()["state"] == "queued", "the busy one had work all the time"
        for job_id in busy[5:]:
            http.delete(f"/v1/jobs/{job_id}")


def test_one_that_fails_to_load_says_so_and_is_tried_again(
    http: httpx.Client, redis_url: str, models: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    models.write_text(models.read_text().replace(f"mb: {MB}", f"mb: {MB}, broken: {broken}"))
    with worker(redis_url, models, ML_HEARTBEAT_S="0.5") as process:
        job_id = _submit(http, "one")
        wait_until(lambda: _states(http, "one") == ["failed"], what="its card says so")
        waits = http.get(f"/v1/jobs/{job_id}").json()
        assert (waits["state"], waits["waiting_for"]["code"]) == ("queued", "model")
        assert "no weights here" in waits["waiting_for"]["message"]
        assert http.get("/readyz", params={"model": "one"}).status_code == 503
        assert _ended(http, http.post("/v1/jobs", json={"model": "echo", "input": 1}).json()["id"])["output"] == 1
        assert process.poll() is None
        broken.unlink()
        assert _ended(http, job_id)["attempt"] == 1


def test_what_can_never_fit_is_refused_at_start(redis_url: str, models: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"x" * 20_000_000)
    models.write_text(models.read_text().replace(f"mb: {MB}", f"mb: {MB}, weights: {weights}"))
    run = refused_worker(environment(redis_url, models, ML_MODEL_MEMORY="10MB"))
    assert run.returncode == 1
    assert (
        "one@1 can never fit: its files have 20 MB, and the memory for models is 10 MB (ML_MODEL_MEMORY)" in run.stderr
    )
    models.write_text(MODELS.replace("load: lazy", "load: preload"))
    run = refused_worker(environment(redis_url, models, ML_MODEL_MEMORY="200MB"))
    assert run.returncode == 1
    assert "the preloaded models take" in run.stderr
    assert "the memory for models is 200 MB (ML_MODEL_MEMORY)" in run.stderr


def test_of_two_workers_one_loads_it(http: httpx.Client, redis_url: str, models: Path) -> None:
    quick = {"ML_HEARTBEAT_S": "0.5"}
    with worker(redis_url, models, "w1", **quick), worker(redis_url, models, "w2", **quick):
        _ended(http, _submit(http, "one"))
        wait_until(lambda: sorted(_states(http, "one")) == ["ready", "unloaded"], what="one of them has it")


def test_one_whose_loader_has_died_is_loaded_by_another_at_once(
    http: httpx.Client, redis_url: str, models: Path, store: redis.Redis
) -> None:
    store.set(f"{keys.LOADING}one@1", "a-process-that-is-gone", px=600_000)
    with worker(redis_url, models, ML_HEARTBEAT_S="0.5"):
        assert _ended(http, _submit(http, "one"))["timing"]["queue_ms"] < 60_000
