"""`up`'s options, the commands made of them, and what `--reload` restarts."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.__main__ import parse
from local.reload import API, WORKERS, Watch
from local.stack import Options, build, listen
from shared.catalog import load_catalog
from shared.errors import ConfigError
from shared.settings import Settings

MODELS = "models: {m: {handler: 'mine.py:Mine', versions: {'1': {}}}}"


def _options(tmp_path: Path, **fields: object) -> Options:
    return Options(data_dir=tmp_path, models=tmp_path / "models.yaml", **fields)  # type: ignore[arg-type]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        yield ours


def test_defaults_are_the_documented_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ML_DATA_DIR", "ML_MODELS_FILE", "ML_HOST", "ML_PORT", "ML_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    assert parse(["up"]) == Options(data_dir=Path(".ml-service"), models=Path("models.yaml"))


def test_the_environment_gives_defaults_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_DATA_DIR", "/data")
    monkeypatch.setenv("ML_PORT", "9000")
    monkeypatch.setenv("ML_REDIS_URL", "redis://queue:6379/0")
    options = parse(["up", "--port", "9001", "--workers", "2", "--apis", "3"])
    assert (options.data_dir, options.port, options.workers, options.apis) == (Path("/data"), 9001, 2, 3)
    assert options.redis_url == "redis://queue:6379/0"


@pytest.mark.parametrize(
    "bad", [["--workers", "0"], ["--apis", "0"], ["--port", "70000"], ["--port", "x"], ["--nonsense"]]
)
def test_wrong_options_end_with_2(bad: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["up", *bad])
    assert ended.value.code == 2


def test_a_taken_port_is_named_with_its_option(tmp_path: Path, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    for option in ("flower_port", "redis_port"):
        with pytest.raises(ConfigError, match=f"port {port} is taken .* --{option.replace('_', '-')} "):
            build(_options(tmp_path, **{"flower_port": 0} | {option: port}), Settings(), 0, listener)
    with pytest.raises(ConfigError, match=f"port {port} is taken .* --port "):
        listen(_options(tmp_path, port=port))


def test_a_host_that_is_not_ours_is_named_with_its_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--host 192\.0\.2\.1, --port 0: "):
        listen(_options(tmp_path, host="192.0.2.1", port=0))


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1"), ("0.0.0.0", "http://127.0.0.1"), ("::", "http://[::1]"), ("a.b", "http://a.b")],  # noqa: S104 - the option
)
def test_the_url_for_clients_on_this_machine(tmp_path: Path, listener: socket.socket, host: str, url: str) -> None:
    stack = build(_options(tmp_path, host=host, flower_port=0), Settings(), 0, listener)
    assert stack.api_url == f"{url}:{listener.getsockname()[1]}"


def test_several_apis_share_the_socket(tmp_path: Path, listener: socket.socket) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "counter_1.db").write_text("of a start before")
    stack = build(_options(tmp_path, flower_port=0, apis=2), Settings(drain_s=7), 0, listener)
    assert {spec.env["PROMETHEUS_MULTIPROC_DIR"] for spec in stack.apis} == {str(tmp_path / "metrics")}
    assert list((tmp_path / "metrics").iterdir()) == [], "they count together, from zero"
    assert [spec.name for spec in stack.apis] == ["api-1", "api-2"]
    assert {(spec.env["ML_LISTEN_FD"], spec.keep_fds) for spec in stack.apis} == {
        (str(listener.fileno()), (listener.fileno(),))
    }
    assert stack.apis[0].stop_s > 7, "an API must have its drain before it is killed"
    (alone,) = build(_options(tmp_path, flower_port=0), Settings(), 0, listener).apis
    assert alone.name == "api"
    assert "PROMETHEUS_MULTIPROC_DIR" not in alone.env


def test_each_worker_has_its_name(tmp_path: Path, listener: socket.socket) -> None:
    stack = build(_options(tmp_path, flower_port=0, workers=2), Settings(grace_s=7), 0, listener)
    assert [spec.name for spec in stack.workers] == ["worker-1", "worker-2"]
    assert [spec.env["ML_WORKER_NAME"] for spec in stack.workers] == ["worker-1", "worker-2"]
    assert [spec.env["ML_METRICS_PORT"] for spec in stack.workers] == ["0", "0"]
    assert stack.workers[0].stop_s > 7, "a worker must have its grace before it is killed"
    assert stack.redis is not None
    assert not stack.redis.env


def test_all_are_led_to_the_server_and_its_password_stands_in_no_environment(
    tmp_path: Path, listener: socket.socket
) -> None:
    stack = build(_options(tmp_path, flower_port=0), Settings(), 0, listener)
    password = stack.redis_address.login["password"]
    for spec in (*stack.apis, *stack.workers, stack.flower):
        told = Settings(
            redis_url=spec.env["ML_REDIS_URL"], redis_password_file=Path(spec.env["ML_REDIS_PASSWORD_FILE"])
        )
        assert told.redis_address().login == stack.redis_address.login
        assert told.redis_address().path == str(tmp_path / "redis" / "redis.sock")
        assert password not in str(spec.env)
    assert stack.redis is not None
    assert str(tmp_path / "redis" / "redis.sock") in stack.redis.command


def test_where_there_can_be_no_unix_socket_all_go_by_the_port(tmp_path: Path, listener: socket.socket) -> None:
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    stack = build(_options(folder, flower_port=0), Settings(), 0, listener)
    assert stack.redis is not None
    assert "--unixsocket" not in stack.redis.command
    for spec in (*stack.apis, *stack.workers, stack.flower):
        assert spec.env["ML_REDIS_URL"] == f"redis://127.0.0.1:{stack.redis_address.hosts[0][1]}/0"


def test_a_given_server_is_used_and_none_started(tmp_path: Path, listener: socket.socket) -> None:
    stack = build(_options(tmp_path, flower_port=0, redis_url="redis://queue:6379/3"), Settings(), 0, listener)
    assert stack.redis is None
    assert stack.apis[0].env["ML_REDIS_URL"] == "redis://queue:6379/3"


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
