"""The data folder: one `up` at a time, and a state.json that tells the truth."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from local.folder import DataFolder, State
from shared.errors import ConfigError

STATE = State(
    api_url="http://127.0.0.1:8001",
    flower_url="http://127.0.0.1:5555",
    redis_url="redis://127.0.0.1:1/0",
    processes={"api": 1},
)
HOLDER = (
    "import sys, time; from pathlib import Path; from local.folder import DataFolder\n"
    "f = DataFolder(Path(sys.argv[1])); f.lock(); print(f.lock_fd, flush=True); time.sleep(600)"
)


def _holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_second_one_is_refused_by_the_pid_of_the_first(tmp_path: Path) -> None:
    holder = _holder(tmp_path)
    try:
        with pytest.raises(ConfigError, match=rf"pid {holder.pid}\).*--data-dir"):
            DataFolder(tmp_path).lock()
    finally:
        _end(holder)


def test_the_lock_of_a_killed_one_is_free(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    _end(_holder(tmp_path))
    folder = DataFolder(tmp_path)
    folder.lock()
    assert not folder.state_file.exists(), "what the killed one left is not the truth"
    folder.release()


def test_waits_for_the_server_of_a_killed_one(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.lock()
    # The server inherits the lock; its `up` is gone.
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=(folder.lock_fd,))
    os.close(folder.lock_fd)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "lock").write_text(str(gone.pid))
    try:
        with pytest.raises(ConfigError, match="another"):
            DataFolder(tmp_path).lock(patience_s=0.2)
    finally:
        server.kill()
        server.wait()
    again = DataFolder(tmp_path)
    again.lock()
    again.release()


def test_state_is_whole_private_and_gone_after_release(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.lock()
    folder.write(STATE)
    assert json.loads(folder.state_file.read_text()) == STATE
    assert stat.S_IMODE(folder.state_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.release()
    assert not folder.state_file.exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--data-dir"):
        DataFolder(tmp_path / "file" / "data").lock()
