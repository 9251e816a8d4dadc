"""API processes that count in one folder: together, whoever is asked, and without the dead."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.measure import FOLDER, Measures
from shared.errors import ConfigError

_COUNT = """
import os, sys
from api.measure import Measures
measures = Measures()
measures.requests.labels("/v1/jobs", "POST", "202").inc(int(sys.argv[1]))
measures.seconds.labels("/v1/jobs").observe(0.2)
measures.waits.inc(int(sys.argv[1]))
print("counted", flush=True)
sys.stdin.read()
os._exit(0)  # as if killed: nothing is tidied up
"""
_TELL = "from prometheus_client import generate_latest; from api.measure import Measures\n"
_TELL += "print(generate_latest(Measures().registry()).decode())"


def test_counts_are_summed_and_gauges_only_of_the_living(tmp_path: Path, repository: Path) -> None:
    env = os.environ | {FOLDER: str(tmp_path / "counts")}

    def told() -> dict[str, float]:
        command = [sys.executable, "-c", _TELL]
        done = subprocess.run(command, env=env, cwd=repository, capture_output=True, text=True, check=True)
        lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    with counting(env, repository, 3) as one, counting(env, repository, 4):
        seen = told()
        assert seen["ml_waiting_calls"] == 7
        assert seen['ml_http_requests_total{method="POST",route="/v1/jobs",status="202"}'] == 7
        assert seen['ml_http_request_seconds_bucket{le="0.25",route="/v1/jobs"}'] == 2
        assert "process_cpu_seconds_total" not in seen, "of which process?"

        one.communicate()
        seen = told()
        assert seen["ml_waiting_calls"] == 4, "who waited at the dead process waits no more"
        assert seen['ml_http_requests_total{method="POST",route="/v1/jobs",status="202"}'] == 7, (
            "what was counted stays"
        )


@contextmanager
def counting(env: dict[str, str], folder: Path, count: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has counted so much, and lives until it reads the end of its input."""
    command, pipe = [sys.executable, "-c", _COUNT, str(count)], subprocess.PIPE
    with subprocess.Popen(command, env=env, cwd=folder, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"counted\n"
        yield process


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "counts"))
    with pytest.raises(ConfigError, match=FOLDER):
        Measures()
