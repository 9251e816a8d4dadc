"""What `serve` makes of a container's environment and its model's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from local import serve
from local.__main__ import parse
from shared.catalog import load_catalog
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("env", "port"),
    [({}, 8080), ({"AIP_HTTP_PORT": "7080"}, 7080), ({"SAGEMAKER_BIND_TO_PORT": "9000", "AIP_HTTP_PORT": "1"}, 9000)],
)
def test_the_port_is_the_platforms(tmp_path: Path, env: dict[str, str], port: int) -> None:
    found = serve.options(env, tmp_path, folder=tmp_path / "none")
    assert (found.port, found.models) == (port, Path("models.yaml"))


def test_a_port_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'http' is not a port"):
        serve.options({"AIP_HTTP_PORT": "http"}, tmp_path, folder=tmp_path)


def test_keys_are_off_unless_somebody_says_so() -> None:
    assert serve.environment({}) == {"ML_AUTH": "off"}
    assert serve.environment({"ML_AUTH": "on"}) == {"ML_AUTH": "on"}


def _folder(path: Path, **files: object) -> Path:
    path.mkdir()
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("ViTForImageClassification", "image-classification"),
        ("Wav2Vec2ForCTC", "automatic-speech-recognition"),
        ("BertModel", "text-embedding"),
    ],
)
def test_one_model_of_the_files(tmp_path: Path, kind: str, task: str) -> None:
    folder = _folder(tmp_path / "model", config={"architectures": [kind]})
    found = serve.options({}, tmp_path / "data", folder=folder)
    spec = load_catalog(found.models).spec("model")
    assert (spec.task, spec.versions["1"].source) == (task, str(folder))
    named = serve.options({"ML_TASK": "fill-mask"}, tmp_path / "data", folder=folder)
    assert load_catalog(named.models).spec("model").task == "fill-mask"


def test_files_of_sentence_transformers(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", modules=[], config={"architectures": ["BertForMaskedLM"]})
    assert serve.task_of(folder) == "text-embedding"


def test_a_models_file_among_them_says_all(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", config={})
    (folder / "models.yaml").write_text("models: {}")
    assert serve.options({}, tmp_path, folder=folder).models == folder / "models.yaml"


@pytest.mark.parametrize("config", [{}, {"architectures": ["Mystery"]}, {"architectures": None}, []])
def test_files_that_say_nothing(tmp_path: Path, config: object) -> None:
    folder = _folder(tmp_path / "model", config=config)
    with pytest.raises(ConfigError, match="ML_TASK"):
        serve.options({}, tmp_path, folder=folder)
    with pytest.raises(ConfigError, match="is no task"):
        serve.options({"ML_TASK": "dreaming"}, tmp_path, folder=folder)


def test_as_a_command() -> None:
    assert parse(["serve"]).port == 8080
