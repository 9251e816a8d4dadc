"""`ml-service check` and `pull` as commands: help, and what is told of a wrong call."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.__main__ import main

MODELS = 'models: {e: {task: echo, versions: {"1": {}}}}'


@pytest.mark.parametrize("command", ["check", "pull"])
def test_help_tells_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert f"ml-service {command}" in told
    assert "--models" in told


@pytest.mark.parametrize("command", ["check", "pull"])
def test_what_is_not_there_is_told(command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(MODELS)
    assert main([command, "nope", "--models", str(models)]) == 1
    assert main([command, "--models", f"{tmp_path}/none.yaml"]) == 1
    with pytest.raises(SystemExit) as ended:
        main([command, "--colour"])
    assert ended.value.code == 2


def test_a_models_file_by_its_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(MODELS)
    assert main(["pull", "--models", str(models)]) == 0
    assert "e@1" in capsys.readouterr().out
