"""`compile: true`: for real where there is a compiler, and told in one sentence where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.catalog import Ref, load_catalog
from shared.errors import ConfigError
from shared.model_spec import ModelSpec, VersionSpec
from shared.settings import Settings
from tests import models
from tests.processes import REPOSITORY
from worker.handler_class import handler_class
from worker.handlers.text_embedding import TextEmbedding
from worker.inprocess import run_items
from worker.models import load_model
from worker.testing import run_handler

models.ready_torch()

TEXTS = ["a", "The queue keeps what it was given.", "A longer text. " * 6]


def load(source: Path, **version: Any) -> Any:
    spec = ModelSpec.model_validate({"task": "text-embedding", "versions": {"1": {"source": str(source)} | version}})
    settings = Settings(torch_threads=1)
    return load_model(Ref("m", "1"), spec, spec.versions["1"], TextEmbedding, device="cpu", settings=settings)


def test_without_a_compiler_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.encoder(tmp_path / "model")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        ConfigError, match=r"no C\+\+ compiler is found \(g\+\+, clang\+\+, c\+\+\); install one, or leave"
    ):
        load(tmp_path / "model", compile=True)
    monkeypatch.setenv("CXX", "nowhere-c++")
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler is found \(CXX=nowhere-c\+\+\)"):
        load(tmp_path / "model", compile=True)
    load(tmp_path / "model")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_with_one_it_gives_what_the_model_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For texts of any length, in any company."""
    assert any(map(shutil.which, ("g++", "clang++", "c++"))), "this needs a C++ compiler"
    import torch

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    models.encoder(tmp_path / "model")
    loaded = load(tmp_path / "model", compile=True)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert before > 0, "compiled while it was warmed"
    items = [loaded.task.item(text=text) for text in TEXTS]
    outputs = run_items(loaded.handler, items, loaded.task.parameters())
    right = run_handler(TextEmbedding, [{"text": text} for text in TEXTS], source=str(tmp_path / "model"))
    for output, expected in zip(outputs, right, strict=True):
        assert np.dot(output["embedding"], expected["embedding"]) > 0.9999


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_network_whose_padding_depends_on_sizes_is_compiled_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EfficientNet-Lite0; it took more than ten minutes where all sizes were unknown."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    spec = load_catalog(REPOSITORY / "models.yaml").spec("cnn")

    def scores(**fields: Any) -> Any:
        version = VersionSpec.model_validate(spec.versions["1"].model_dump() | fields)
        kind = handler_class(spec, version, base=REPOSITORY)
        loaded = load_model(Ref("cnn", "1"), spec, version, kind, device="cpu", settings=Settings(torch_threads=1))
        outputs = run_items(loaded.handler, kind.example * 3, loaded.task.parameters())
        return [[label["score"] for label in output["labels"]] for output in outputs]

    np.testing.assert_allclose(scores(compile=True), scores(), atol=1e-3)
