"""The log of a process: what reaches stderr at its end, however it ends; and the closed list of events."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from shared.logs import Event
from tests.unit.test_readme import OPERATIONS, table

BEGIN = """
import os, signal, sys, threading, warnings
from shared.logs import Event, configure_logs, flush_logs, get_logger
from worker.vital import end_process, vital_thread
configure_logs("INFO", "json")
logger = get_logger("worker")
logger.info(Event.STARTED, n=1)
"""


def run(repository: Path, code: str) -> tuple[int, list[dict[str, Any]]]:
    """Its exit code and its lines, all of them JSON."""
    ended = subprocess.run(
        [sys.executable, "-c", BEGIN + code], cwd=repository, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.stdout == ""
    return ended.returncode, [json.loads(line) for line in ended.stderr.splitlines()]


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("end_process(70)", 70),
        ("flush_logs(); os._exit(4)", 4),
        ("configure_logs('INFO', 'json')", 0),
    ],
)
def test_what_was_said_is_written_before_the_end(repository: Path, code: str, ended: int) -> None:
    found, (line,) = run(repository, code)
    assert found == ended
    assert line.pop("at")
    assert line == {"level": "INFO", "logger": "ml.worker", "event": "started", "n": 1}


def test_an_error_that_nobody_catches_is_a_line(repository: Path) -> None:
    code, lines = run(repository, "raise ValueError('the input')")
    assert code == 1
    assert [line["event"] for line in lines] == ["started", "thread_died"]
    assert lines[1]["thread"] == "main"
    assert lines[1]["exception"].endswith("ValueError")
    assert "the input'" not in lines[1]["exception"].replace("raise ValueError('the input')", "")


def test_nor_one_in_a_thread(repository: Path) -> None:
    code, lines = run(
        repository,
        """
def work():
    {}["the input"]
thread = threading.Thread(target=work, name="t1")
thread.start()
thread.join()
""",
    )
    assert code == 0
    assert [(line["event"], line.get("thread")) for line in lines] == [("started", None), ("thread_died", "t1")]


def test_a_vital_thread_ends_the_process_and_says_why(repository: Path) -> None:
    code, lines = run(
        repository,
        """
def work():
    raise ValueError("the input")
vital_thread("device", work).start()
signal.pause()
""",
    )
    assert code == 70
    assert [(line["event"], line.get("thread")) for line in lines] == [("started", None), ("thread_died", "device")]


def test_pythons_warnings_are_lines(repository: Path) -> None:
    code, lines = run(repository, "warnings.warn('no more of this', stacklevel=1)")
    assert (code, len(lines)) == (0, 2)
    assert lines[1]["logger"] == "py.warnings"
    assert "no more of this" in lines[1]["event"]


def test_only_warnings_of_libraries(repository: Path) -> None:
    _, lines = run(
        repository,
        """
import logging
logging.getLogger("celery").info("chatter")
logging.getLogger("celery").warning("trouble\\nin full")
logger.debug(Event.BATCH_DONE)
""",
    )
    assert [line["event"] for line in lines] == ["started", "trouble"]


def test_a_worker_that_is_stopped_while_it_starts_has_said_what_it_said(repository: Path, tmp_path: Path) -> None:
    """SIGTERM before it is ready ends it at once (`os._exit`)."""
    (tmp_path / "models.yaml").write_text("models: {echo: {task: echo, versions: {'1': {}}}}")
    code = """
from worker import run
from shared.settings import Settings
def told(settings):
    logger.info(Event.DEVICE_CLAIMED)
    signal.raise_signal(signal.SIGTERM)
run.claim_device = told
run.run(Settings(models_file=sys.argv[1]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", BEGIN + code, str(tmp_path / "models.yaml")],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert [json.loads(line)["event"] for line in ended.stderr.splitlines()] == ["started", "device_claimed"]


def test_lines_name_the_request(repository: Path) -> None:
    _, lines = run(
        repository,
        """
from shared import origin
origin.begin(origin.Origin("r"))
logger.info(Event.REQUEST)
origin.about("j")
logger.info(Event.REQUEST)
logger.info(Event.JOB_FAILED, job_id="another")
""",
    )
    assert [(line.get("request_id"), line.get("job_id")) for line in lines] == [
        (None, None),
        ("r", None),
        ("r", "j"),
        ("r", "another"),
    ]


def said(repository: Path) -> dict[str, set[str]]:
    """By event: the levels that the code logs it at."""
    found: dict[str, set[str]] = defaultdict(set)
    found["LOGS_DROPPED"].add("WARNING")  # of no logger: shared/log_queue.py writes it itself
    for part in ("api", "worker", "shared", "local"):
        for path in (repository / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                    first = node.args[0]
                    if isinstance(first, ast.Attribute) and ast.unparse(first.value) == "Event":
                        found[first.attr].add(node.func.attr.upper())
    return dict(found)


def test_every_event_is_logged_somewhere(repository: Path) -> None:
    assert set(said(repository)) == set(Event.__members__)


def test_the_page_tells_every_event_and_its_levels(repository: Path) -> None:
    rows = table(OPERATIONS, "### Events")
    assert set(rows) == {event.value for event in Event}
    for name, levels in said(repository).items():
        assert set(rows[name.lower()][0].split(", ")) == levels, name
