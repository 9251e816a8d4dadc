"""The health file: what is told of a worker that lives, is stuck, is gone, or is somebody else's."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import health
from shared.settings import Settings
from tests.conftest import wait_until
from worker.pulse import Pulse


def sign(pid: int | None = None, *, ago_s: float = 0.0, started: str | None = None) -> health.Sign:
    pid = os.getpid() if pid is None else pid
    started = health.started_of(pid) if started is None else started
    return health.Sign(pid, started, time.monotonic() - ago_s, 3.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "w.alive"


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process.pid
    process.kill()
    process.wait()


def test_it_says_what_was_written(file: Path) -> None:
    told = sign()
    health.write(file, told)
    assert health.read(file) == told
    assert [path.name for path in file.parent.iterdir()] == [file.name], "no draft is left"
    assert file.stat().st_mode & 0o077 == 0
    assert health.check(file, replace=True) == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": 1, "when": 2}', "\x00"])
def test_what_cannot_be_read_is_no_worker(file: Path, text: str) -> None:
    file.write_text(text)
    assert health.read(file) is None
    assert health.check(file, replace=True) == 1


def test_no_file_is_red(file: Path) -> None:
    """It is starting, or gone."""
    assert health.check(file, replace=True) == 1


def test_a_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    health.write(tmp_path / "other", sign(ago_s=60))
    file.symlink_to(tmp_path / "other")
    assert health.read(file) is None


def test_anothers_file_names_nobody_to_kill(file: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch) -> None:
    health.write(file, sign(sleeper, ago_s=60))
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    assert health.check(file, replace=True) == 1
    os.kill(sleeper, 0)


def test_one_that_is_stuck_is_killed_when_asked(file: Path, sleeper: int, capsys: pytest.CaptureFixture[str]) -> None:
    health.write(file, sign(sleeper, ago_s=60))
    assert health.check(file, replace=False) == 1
    os.kill(sleeper, 0)
    watch = os.pidfd_open(sleeper)
    assert health.check(file, replace=True) == 1
    wait_until(lambda: os.waitid(os.P_PIDFD, watch, os.WEXITED | os.WNOHANG | os.WNOWAIT))
    os.close(watch)
    assert f"process {sleeper} has shown no life for 6" in capsys.readouterr().err


def test_a_process_that_has_got_its_id_is_left_alone(file: Path, sleeper: int) -> None:
    health.write(file, sign(sleeper, ago_s=60, started="1"))
    assert health.check(file, replace=True) == 1
    os.kill(sleeper, 0)


def test_after_a_pause_of_everything_it_gets_a_moment(file: Path, sleeper: int) -> None:
    """The container was paused, and the check comes before the worker's next sign."""
    health.write(file, sign(sleeper, ago_s=60))
    late = threading.Timer(0.5, lambda: health.write(file, sign(sleeper)))
    late.start()
    assert health.check(file, replace=True) == 0
    os.kill(sleeper, 0)


def test_a_sign_from_before_a_restart_of_the_machine_is_late() -> None:
    assert dataclasses.replace(sign(), at=time.monotonic() + 1000).late()


def test_the_limit_is_three_beats_within_bounds() -> None:
    assert [health.limit_s(beat) for beat in (0.1, 1, 2, 5, 60)] == [3, 3, 6, 15, 15]


def test_worker_and_check_agree_on_the_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ML_WORKER_NAME", "ML_HEALTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert Settings().health_path() == health.path_from_environment()
    monkeypatch.setenv("ML_WORKER_NAME", "w7")
    assert Settings().health_path() == health.path_from_environment()
    assert "w7" in str(health.path_from_environment())
    monkeypatch.setenv("ML_HEALTH_FILE", str(tmp_path / "x"))
    assert Settings().health_path() == health.path_from_environment() == tmp_path / "x"


def test_the_check_imports_nothing_heavy() -> None:
    """It runs every few seconds."""
    program = (
        "import sys; from worker.__main__ import main; main(['healthcheck']); "
        "print({name.partition('.')[0] for name in sys.modules} & {'pydantic', 'redis', 'torch', 'celery', 'orjson'})"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


class Parts:
    """A pulse whose device can be made ill."""

    def __init__(self, file: Path) -> None:
        self.well = True
        self.file = file
        self.pulse = Pulse(file, 3.0, lambda: self.well)

    def at(self) -> float:
        found = health.read(self.file)
        assert found is not None
        return found.at


@pytest.fixture
def parts(file: Path) -> Iterator[Parts]:
    made = Parts(file)
    made.pulse.start()
    yield made
    made.pulse.stop()
    assert not file.exists(), "who has left is no worker"


def test_the_pulse_goes_on(parts: Parts) -> None:
    first = parts.at()
    wait_until(lambda: parts.at() > first)
    assert health.check(parts.file, replace=False) == 0


def test_the_pulse_stands_still_with_the_device(parts: Parts) -> None:
    parts.well = False
    stood = parts.at()
    wait_until(lambda: health.check(parts.file, replace=False) == 1)
    assert parts.at() - stood < 1


def test_the_pulse_stands_still_with_a_thread(parts: Parts) -> None:
    before = time.monotonic()
    parts.pulse.mark("watchdog")
    parts.pulse.mark("presence", allow_s=600)
    wait_until(lambda: parts.at() >= before)
    wait_until(lambda: health.check(parts.file, replace=False) == 1)
    assert parts.at() < time.monotonic() - 3, "the watchdog's last sign"


def test_a_folder_that_takes_no_file_ends_no_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pulse = Pulse(tmp_path / "missing" / "w.alive", 0.1, lambda: True)
    pulse.start()
    wait_until(pulse._thread.is_alive)
    pulse.stop()
    assert [record.message for record in caplog.records] == ["health_file_failed"]


def test_a_stopped_process_is_late(file: Path, sleeper: int) -> None:
    """Signals reach it all the same."""
    os.kill(sleeper, signal.SIGSTOP)
    health.write(file, sign(sleeper, ago_s=4))
    stuck = health.stuck(file)
    assert stuck is not None
    assert stuck.pid == sleeper
