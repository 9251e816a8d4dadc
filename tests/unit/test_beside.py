"""Which Redis a command asks that is typed beside `ml-service up`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.beside import STATE_FILE, beside_up, data_folder
from shared.settings import Settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ML_REDIS_URL", raising=False)
    monkeypatch.setenv("ML_DATA_DIR", str(tmp_path))


def runs(folder: Path, redis_url: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / STATE_FILE).write_text(json.dumps({"redis_url": redis_url, "processes": {}}))


def test_the_one_of_the_up_that_runs_here(tmp_path: Path) -> None:
    runs(tmp_path, "redis://:word@127.0.0.1:7000/0")
    settings = beside_up(Settings())
    assert settings.redis_address().login == {"password": "word"}
    assert "7000" in settings.redis_address().place()


def test_the_named_one_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs(tmp_path, "redis://127.0.0.1:7000/0")
    monkeypatch.setenv("ML_REDIS_URL", "redis://queue:6379/0")
    assert beside_up(Settings()).redis_url == "redis://queue:6379/0"


def test_the_default_where_none_runs() -> None:
    assert beside_up(Settings()).redis_url == Settings().redis_url


def test_without_a_folder_named_it_is_that_of_an_up_without_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ML_DATA_DIR")
    monkeypatch.chdir(tmp_path)
    runs(tmp_path / data_folder(), "redis://127.0.0.1:7001/0")
    assert beside_up(Settings()).redis_url == "redis://127.0.0.1:7001/0"
