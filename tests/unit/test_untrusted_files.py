"""Weights that are a pickle with a payload, and model files that bring code: neither is ever run."""

from __future__ import annotations

import json
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shared.catalog import Ref
from shared.errors import ConfigError
from shared.model_spec import ModelSpec
from shared.settings import Settings
from tests import models as tiny
from worker.handler_class import handler_class
from worker.models import load_model


class Payload:
    """When it is unpickled, a file appears."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.flag}",))


def load(folder: Path, task: str, **version: Any) -> None:
    spec = ModelSpec.model_validate({"task": task, "versions": {"1": version}})
    settings = Settings(models_file=folder / "models.yaml", torch_threads=1)
    kind = handler_class(spec, spec.versions["1"])
    load_model(Ref("m", "1"), spec, spec.versions["1"], kind, device="cpu", settings=settings)


@pytest.fixture(scope="module", autouse=True)
def torch_ready() -> None:
    tiny.ready_torch()


@pytest.mark.long
@pytest.mark.parametrize("task", ["text-embedding", "question-answering", "text-classification"])
def test_a_payload_in_the_weights_of_transformers(tmp_path: Path, task: str) -> None:
    flag, folder = tmp_path / "flag", tmp_path / "model"
    make = {"text-embedding": tiny.encoder, "question-answering": tiny.question_answerer}
    make.get(task, tiny.text_classifier)(folder)
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weights": Payload(flag)}, file)
    with pytest.raises(Exception, match=r"(?i)weights.only|pickle|unpickl"):
        load(tmp_path, task, source=str(folder))
    assert not flag.exists()


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_payload_in_the_weights_of_torchvision(tmp_path: Path, suffix: str) -> None:
    flag, weights = tmp_path / "flag", tmp_path / f"cnn{suffix}"
    with weights.open("wb") as file:
        pickle.dump({"weights": Payload(flag)}, file)
    with pytest.raises(ConfigError, match="not a state dict"):
        load(tmp_path, "image-classification", source="torchvision:mobilenet_v3_small", weights=str(weights))
    assert not flag.exists()


def test_a_payload_in_a_dense_layer(tmp_path: Path) -> None:
    flag, folder = tmp_path / "flag", tmp_path / "model"
    tiny.encoder(folder)
    tiny.sentence_files(folder, pooling={"pooling_mode": "mean"}, normalize=False)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"type": "sentence_transformers.models.Dense", "path": "2_Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text(json.dumps({"in_features": 32, "out_features": 8}))
    with (folder / "2_Dense" / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"linear.weight": Payload(flag)}, file)
    with pytest.raises(Exception, match=r"(?i)weights.only|unpickl"):
        load(tmp_path, "text-embedding", source=str(folder))
    assert not flag.exists()


@pytest.mark.long
@pytest.mark.parametrize("task", ["text-embedding", "question-answering", "text-classification"])
def test_code_that_model_files_bring_is_run_only_when_told(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    flag, folder = tmp_path / "flag", tmp_path / "model"
    make = {"text-embedding": tiny.encoder, "question-answering": tiny.question_answerer}
    make.get(task, tiny.text_classifier)(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "not-known-here", "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        f"open({str(flag)!r}, 'w').close()\nfrom transformers import BertConfig\nclass Config(BertConfig): pass\n"
    )
    with pytest.raises(ConfigError, match="brings code of its own, which is not run; `trust_remote_code: true`"):
        load(tmp_path, task, source=str(folder))
    assert not flag.exists()
    with suppress(ValueError):  # for most tasks nothing runs such a config; but its code has been run
        load(tmp_path, task, source=str(folder), trust_remote_code=True)
    assert flag.exists()
