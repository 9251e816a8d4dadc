"""Passwords in files: made once, read back by all who need them, told by nobody."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import redis

from local.ports import free_port
from local.server import answers, find_server, server_command, tethered
from shared import credentials
from shared.credentials import main, make, password_file, put, read_password, server_file
from shared.errors import ConfigError
from shared.settings import Settings, load_settings
from shared.store import client
from tests.conftest import wait_until

AWKWARD = """p'"\\ #/@:;%$x"""


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_what_is_absent_is_made_at_random_and_what_is_there_stays(tmp_path: Path) -> None:
    make(tmp_path)
    first = texts(tmp_path)
    assert set(first) == {"redis/password", "redis/redis.conf", "flower/password"}
    assert first["redis/password"] != first["flower/password"]
    assert all(len(first[f"{name}/password"].strip()) >= 43 for name in credentials.NAMES), "256 bits in base64"
    assert {mode(path) for path in tmp_path.rglob("*") if path.is_file()} == {0o600}
    make(tmp_path)
    assert texts(tmp_path) == first


def test_a_folder_of_volumes_is_readable_for_the_other_containers_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert main([str(tmp_path)]) == 0
    finally:
        os.umask(before)
    assert {mode(path) for path in tmp_path.rglob("*") if path.is_file()} == {0o444}


def test_one_is_renewed_alone(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    first = texts(tmp_path)
    assert main([str(tmp_path), "renew", "redis"]) == 0
    second = texts(tmp_path)
    assert first["redis/password"].strip() not in second["redis/redis.conf"]
    assert second["redis/password"].strip() in second["redis/redis.conf"]
    assert first["flower/password"] == second["flower/password"]


def test_a_change_that_was_cut_off_is_completed(tmp_path: Path) -> None:
    make(tmp_path)
    put(tmp_path, "redis", "the new one")  # and no server's file
    make(tmp_path)
    assert server_file(tmp_path).read_text() == 'requirepass "the new one"\n'


def test_one_of_your_own_comes_by_stdin_and_a_real_server_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "secrets"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{AWKWARD}\n"))
    assert main([str(folder), "set", "redis"]) == 0
    port = free_port()
    asked = Settings(redis_url=f"redis://127.0.0.1:{port}", redis_password_file=password_file(folder, "redis"))
    command = server_command(find_server(), tmp_path, port, config=server_file(folder))
    assert AWKWARD not in " ".join(command)
    server = subprocess.Popen(tethered(command, signal.SIGKILL))
    try:
        wait_until(lambda: answers(asked.redis_address(), server.pid), what="the server takes the password")
        with redis.Redis(port=port) as store, pytest.raises(redis.AuthenticationError):
            store.ping()
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("given", ["", "\n", "käse\n", "a\tb\n"])
def test_a_password_that_not_all_programs_take_is_refused(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    assert main([str(tmp_path), "set", "flower"]) == 1
    assert not texts(tmp_path)
    told = capsys.readouterr().err
    assert "printable ASCII" in told
    assert "käse" not in told


@pytest.mark.parametrize("arguments", [["renew"], ["renew", "all"], ["set", "redis", "x"], ["nonsense"]])
def test_wrong_arguments_change_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), *arguments]) == 2
    assert "renew redis" in capsys.readouterr().err
    assert not texts(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "redis").write_text("a file where a folder should be")
    assert main([str(tmp_path)]) == 1
    assert re.match(r"credentials: .*redis", capsys.readouterr().err)


# ML_REDIS_PASSWORD_FILE, ML_SENTINEL_PASSWORD_FILE ------------------------------------------------


FILES = ("ML_REDIS_PASSWORD_FILE", "ML_SENTINEL_PASSWORD_FILE")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("hunter2\n")
    return path


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("redis://h/0", {"password": "hunter2"}),
        ("redis://ml@h/0", {"username": "ml", "password": "hunter2"}),
        ("redis://ml:mine@h/0", {"username": "ml", "password": "mine"}),
        ("rediss://h", {"password": "hunter2"}),
        ("redis+socket:///run/r.sock", {"password": "hunter2"}),
        ("sentinel://a;sentinel://b?master_name=m", {"password": "hunter2"}),
    ],
)
def test_it_is_the_password_where_the_url_has_none(url: str, login: dict[str, str], file: Path) -> None:
    assert Settings(redis_url=url, redis_password_file=file).redis_address().login == login


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("sentinel://:server@a;sentinel://b?master_name=m", {"password": "hunter2"}),
        ("sentinel://a?master_name=m&sentinel_username=s", {"username": "s", "password": "hunter2"}),
        ("sentinel://a?master_name=m&sentinel_password=mine", {"password": "mine"}),
        ("redis://h/0", {}),
    ],
)
def test_the_sentinels_have_a_file_of_their_own(url: str, login: dict[str, str], file: Path) -> None:
    address = Settings(redis_url=url, sentinel_password_file=file).redis_address()
    assert address.sentinel_login == login
    assert address.login.get("password") in (None, "server")


def test_celery_gets_it_in_each_part_of_the_url_and_tells_nobody(file: Path) -> None:
    from shared.queue import make_celery

    url = "sentinel://a;sentinel://b?master_name=m&sentinel_password=hunter3"
    app = make_celery(Settings(redis_url=url, redis_password_file=file))
    assert app.conf.broker_url == "sentinel://:hunter2@a:26379/0;sentinel://:hunter2@b:26379/0"
    assert app.conf.result_backend == app.conf.broker_url
    # `celery report`, `celery inspect conf` and Flower's page of a worker
    assert "hunter" not in app.bugreport()
    assert "hunter" not in repr(app.conf.table(with_defaults=False, censored=True))


def test_an_empty_setting_is_none_and_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in FILES:
        monkeypatch.setenv(variable, "")
    assert load_settings().redis_password_file is None
    assert load_settings().sentinel_password_file is None


@pytest.mark.parametrize("variable", FILES)
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a\nhunter2\n", "one line"),
        (b"\xff", "text"),
    ],
)
def test_a_file_without_a_password_is_refused_by_its_variable(
    variable: str, content: bytes | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(variable, str(path))
    with pytest.raises(ConfigError, match=rf"^{variable}: .*{told}") as caught:
        load_settings()
    assert "hunter" not in caught.value.message


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ML_REDIS_PASSWORD_FILE: .*cannot be read: Is a directory"):
        read_password(tmp_path, "ML_REDIS_PASSWORD_FILE")


def test_no_secret_stands_in_a_repr_or_in_an_error(file: Path) -> None:
    settings = Settings(redis_url="redis://:hunter3@h/0", redis_password_file=file)
    for told in (settings, settings.redis_address(), client(settings.redis_address(), timeout_s=1, connect_s=1)):
        assert "hunter" not in repr(told)
    with pytest.raises(ValueError, match="ML_HEARTBEAT_S") as caught:
        Settings(redis_url="redis://:hunter3@h/0", heartbeat_s=5, lease_s=5)
    assert "hunter" not in str(caught.value)
