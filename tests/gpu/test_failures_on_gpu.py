"""A real GPU that runs out of memory, and one whose context breaks (`make gpu`)."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.conftest import wait_until
from tests.processes import api, worker

pytestmark = pytest.mark.gpu

MODELS = """
models:
  greedy:
    handler: tests/gpu/handlers.py:Greedy
    versions: {"1": {}}
    batch: {max_size: 16}
"""
GPU = {"ML_DEVICE": "cuda", "ML_LEASE_S": "600", "ML_HEARTBEAT_S": "0.5"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    return path


def _submit(url: str, **ask: object) -> str:
    job_id: str = httpx.post(f"{url}/v1/jobs", json={"model": "greedy", "input": ask}).json()["id"]
    return job_id


def _ended(url: str, job_id: str) -> dict[str, object]:
    job: dict[str, object] = httpx.get(f"{url}/v1/jobs/{job_id}", params={"wait": 60}, timeout=70).json()
    return job


def _ceiling(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("ml_max_batch_size{")]
    return float(line.rpartition(" ")[2])


def test_out_of_memory_halves_the_batch(redis_url: str, models: Path) -> None:
    with api(redis_url, models) as url:
        ids = [_submit(url, share=0.2) for _ in range(16)]
        alone = _submit(url, share=2.0)
        with worker(redis_url, models, "gpu", **GPU) as process:
            assert [_ended(url, job_id)["state"] for job_id in ids] == ["succeeded"] * 16
            assert _ended(url, alone)["error"]["code"] == "out_of_memory"  # type: ignore[index]
            assert process.poll() is None
            wait_until(lambda: _ceiling(url) < 16, what="the lower ceiling is told")


def test_a_broken_context_ends_the_worker_and_nobody_elses_job(redis_url: str, models: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    with api(redis_url, models) as url:
        ids = [_submit(url, index=n) for n in range(4)]
        ids.append(_submit(url, index=1_000, flag=str(flag)))
        with worker(redis_url, models, "first", **GPU) as first:
            assert first.wait(60) == 70
        flag.unlink()
        with worker(redis_url, models, "second", **GPU):
            assert [_ended(url, job_id)["state"] for job_id in ids] == ["succeeded"] * 5
