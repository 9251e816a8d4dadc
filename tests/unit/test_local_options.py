"""`up`'s options, the commands made of them, and what `--reload` restarts."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import socket
from pathlib import Path

import pytest

from local.__main__ import parse
from local.reload import API, WORKERS, Watch
from local.stack import Options, build
from shared.catalog import load_catalog
from shared.errors import ConfigError
from shared.settings import Settings

MODELS = "models: {m: {handler: 'mine.py:Mine', versions: {'1': {}}}}"


def _options(tmp_path: Path, **fields: object) -> Options:
    return Options(data_dir=tmp_path, models=tmp_path / "models.yaml", **fields)  # type: ignore[arg-type]


def test_defaults_are_the_documented_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ML_DATA_DIR", "ML_MODELS_FILE", "ML_HOST", "ML_PORT", "ML_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    assert parse(["up"]) == Options(data_dir=Path(".ml-service"), models=Path("models.yaml"))


def test_the_environment_gives_defaults_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_DATA_DIR", "/data")
    monkeypatch.setenv("ML_PORT", "9000")
    monkeypatch.setenv("ML_REDIS_URL", "redis://queue:6379/0")
    options = parse(["up", "--port", "9001", "--workers", "2"])
    assert (options.data_dir, options.port, options.workers) == (Path("/data"), 9001, 2)
    assert options.redis_url == "redis://queue:6379/0"


@pytest.mark.parametrize("bad", [["--workers", "0"], ["--port", "70000"], ["--port", "x"], ["--nonsense"]])
def test_wrong_options_end_with_2(bad: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["up", *bad])
    assert ended.value.code == 2


def test_a_taken_port_is_named_with_its_option(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("port", "flower_port", "redis_port"):
            with pytest.raises(ConfigError, match=f"port {port} is taken .* --{option.replace('_', '-')} "):
                build(_options(tmp_path, **{"port": 0, "flower_port": 0} | {option: port}), Settings(), 0)


def test_each_worker_has_its_name_and_its_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ML_TORCH_THREADS", raising=False)
    stack = build(_options(tmp_path, port=0, flower_port=0, workers=2), Settings(grace_s=7), 0)
    assert [spec.name for spec in stack.workers] == ["worker-1", "worker-2"]
    assert [spec.env["ML_WORKER_NAME"] for spec in stack.workers] == ["worker-1", "worker-2"]
    assert stack.workers[0].env["ML_TORCH_THREADS"] == str(max(1, (os.cpu_count() or 1) // 2))
    assert stack.workers[0].stop_s > 7, "a worker must have its grace before it is killed"
    assert stack.redis is not None
    assert {spec.env["ML_REDIS_URL"] for spec in (stack.api, *stack.workers, stack.flower)} == {stack.redis_url}
    assert not stack.redis.env


def test_a_given_server_is_used_and_none_started(tmp_path: Path) -> None:
    stack = build(_options(tmp_path, port=0, flower_port=0, redis_url="redis://queue:6379/3"), Settings(), 0)
    assert stack.redis is None
    assert stack.api.env["ML_REDIS_URL"] == "redis://queue:6379/3"


def test_reload_restarts_what_a_file_touches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("api", "worker", "shared"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    folders = {name: tmp_path / name / "__init__.py" for name in ("api", "worker", "shared")}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None, origin=str(folders[name]))
    )
    models, mine = tmp_path / "models.yaml", tmp_path / "mine.py"
    models.write_text(MODELS)
    mine.write_text("")
    watch = Watch(models, load_catalog(models))
    assert watch.touched() == set()

    def after(path: Path) -> set[str]:
        path.write_text(f"# {path}")
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        return watch.touched()

    assert after(tmp_path / "api" / "app.py") == {API}
    assert after(tmp_path / "worker" / "runner.py") == {WORKERS}
    assert after(tmp_path / "shared" / "submit.lua") == {API, WORKERS}
    assert after(models) == {API, WORKERS}
    assert after(mine) == {WORKERS}
    assert after(tmp_path / "api" / "notes.txt") == set()
    (tmp_path / "api" / "app.py").unlink()
    assert watch.touched() == {API}
