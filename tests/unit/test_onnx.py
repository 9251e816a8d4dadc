"""ONNX Runtime gives what torch gives, for the same files and the same inputs; what is no such file is told."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.catalog import Ref
from shared.errors import ConfigError
from shared.model_spec import ModelSpec
from shared.settings import Settings
from tests import models, onnx_models
from worker.handler_class import handler_class
from worker.handlers.images import sample_image
from worker.handlers.onnx_image import OnnxClassifier
from worker.handlers.onnx_text import OnnxTextEmbedding
from worker.handlers.text_embedding import TextEmbedding
from worker.handlers.vision import TorchvisionClassifier
from worker.models import load_model
from worker.onnx import onnx_file
from worker.testing import run_handler

TEXTS = ["a", "The queue keeps what it was given.", "word " * 300, "Short again.", "A longer text. " * 12]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_models.encoder(models.minilm(), tmp_path_factory.mktemp("onnx") / "minilm")


def vectors(outputs: list[Any]) -> np.ndarray:
    return np.array([output["embedding"] for output in outputs])


def test_texts_in_any_company_are_what_torch_makes_of_them(minilm: Path) -> None:
    inputs = [{"text": text} for text in TEXTS]
    ours = run_handler(OnnxTextEmbedding, inputs, source=str(minilm))
    right = run_handler(TextEmbedding, inputs, source=models.minilm())
    cosines = (vectors(ours) * vectors(right)).sum(axis=1)
    assert cosines.min() > 0.9999
    alone = [run_handler(OnnxTextEmbedding, [one], source=str(minilm))[0] for one in inputs[:2]]
    assert (vectors(alone) * vectors(ours[:2])).sum(axis=1).min() > 0.9999
    assert [output.get("truncated") for output in ours] == [output.get("truncated") for output in right]
    assert ours[2]["truncated"] is True


def test_options_are_those_of_the_torch_handler(minilm: Path) -> None:
    for options, parameters in (({"pooling": "cls", "normalize": False}, {"dimensions": 17}), ({"max_length": 8}, {})):
        more = {"options": options, "parameters": parameters}
        inputs = [{"text": text} for text in TEXTS]
        ours = vectors(run_handler(OnnxTextEmbedding, inputs, source=str(minilm), **more))
        right = vectors(run_handler(TextEmbedding, inputs, source=models.minilm(), **more))
        assert ours.shape == right.shape
        assert np.abs(ours - right).max() < 1e-3


def test_pictures_are_what_torch_makes_of_them(tmp_path: Path) -> None:
    file, weights, labels = onnx_models.classifier(tmp_path, 7)
    inputs = [{"image": sample_image()} for _ in range(3)]
    name = "torchvision:mobilenet_v3_small"
    ours = run_handler(OnnxClassifier, inputs, source=str(file), options={"preprocess": name, "labels": str(labels)})
    right = run_handler(
        TorchvisionClassifier, inputs, source=name, options={"weights": str(weights), "labels": str(labels)}
    )
    for a, b in zip(ours, right, strict=True):
        assert [one["label"] for one in a["labels"]] == [one["label"] for one in b["labels"]]
        assert max(abs(x["score"] - y["score"]) for x, y in zip(a["labels"], b["labels"], strict=True)) < 1e-4
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}'
    )
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {str(n): f"n{n}" for n in range(7)}}))
    (own,) = run_handler(OnnxClassifier, inputs[:1], source=str(file))
    assert {one["label"] for one in own["labels"]} <= {f"n{n}" for n in range(7)}
    with pytest.raises(ConfigError, match="1000 labels for a model of 7 classes; give the option labels"):
        run_handler(OnnxClassifier, inputs[:1], source=str(file), options={"preprocess": name})


def load(source: Path, task: str = "text-embedding", **version: Any) -> Any:
    spec = ModelSpec.model_validate({"task": task, "versions": {"1": {"source": str(source)} | version}})
    kind = handler_class(spec, spec.versions["1"])
    settings = Settings(torch_threads=1)
    return load_model(Ref("m", "1"), spec, spec.versions["1"], kind, device="cpu", settings=settings)


def test_a_version_says_by_its_source_or_by_its_runtime(minilm: Path) -> None:
    assert isinstance(load(minilm / "onnx" / "model.onnx").handler, OnnxTextEmbedding)
    assert isinstance(load(minilm, runtime="onnx").handler, OnnxTextEmbedding)
    kind = handler_class(
        ModelSpec.model_validate({"task": "text-embedding", "versions": {"1": {"source": str(minilm)}}})
    )
    assert kind is TextEmbedding


def test_what_does_not_fit_is_told(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = minilm / "onnx" / "model.onnx"
    with pytest.raises(ConfigError, match=r"an \.onnx file is run as it is"):
        load(file, quantize="int8")
    with pytest.raises(ConfigError, match="runtime onnx: for the tasks text-embedding and image-classification, not"):
        load(file, "text-classification")
    with pytest.raises(ConfigError, match=r"must hold one \.onnx file, and holds none"):
        load(Path(models.minilm()), runtime="onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    shutil.copy(minilm / "tokenizer.json", tmp_path)
    with pytest.raises(ConfigError, match="not a model that ONNX Runtime can run"):
        load(tmp_path / "broken.onnx")
    with pytest.raises(ConfigError, match="image-classification gives"):
        load(file, "image-classification", preprocess="torchvision:resnet18")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"there is no tokenizer\.json beside it"):
        load(tmp_path / "broken.onnx")
    (tmp_path / "other.onnx").touch()
    with pytest.raises(ConfigError, match=r"holds broken\.onnx, other\.onnx: name the one you mean"):
        onnx_file(str(tmp_path))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="onnxruntime is not installed; pip install onnxruntime"):
        load(file)
