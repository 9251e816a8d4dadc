"""What a log line looks like, and what never stands in one."""

from __future__ import annotations

import datetime
import io
import json
import logging
import re
import sys
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from shared.log_lines import JsonFormatter, TextFormatter, settle, told_traceback, words

QUOTED = "the caller's words"


def record(event: str = "job_failed", *, name: str = "ml.worker", level: int = logging.INFO, **fields: Any) -> Any:
    made = logging.makeLogRecord(
        {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "msg": event}
    )
    made.created = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, datetime.UTC).timestamp()
    made.fields = fields
    return made


def failed(error: BaseException) -> Any:
    made = record(level=logging.ERROR)
    made.exc_info = (type(error), error, error.__traceback__)
    return settle(made)


def caught(function: Any) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json() -> None:
    line = JsonFormatter().format(settle(record(job_id="j", size=3, jobs=[{"job_id": "k"}], state=None)))
    assert json.loads(line) == {
        "at": "2026-01-02T03:04:05.678+00:00",
        "level": "INFO",
        "logger": "ml.worker",
        "event": "job_failed",
        "job_id": "j",
        "size": 3,
        "jobs": [{"job_id": "k"}],
        "state": None,
    }


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(anything)
def test_any_value_is_one_line(value: Any) -> None:
    line = JsonFormatter().format(settle(record(value=value)))
    assert "\n" not in line
    assert json.loads(line)["event"] == "job_failed"
    text = TextFormatter(io.StringIO()).format(settle(record(value=value)))
    assert len(text.splitlines()) == 1
    assert text.isprintable()


def test_a_lone_surrogate_and_a_huge_number() -> None:
    line = JsonFormatter().format(settle(record(value="\ud800", number=2**70)))
    assert json.loads(line)["number"] == 2**70


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"), [(False, "", False), (True, "", True), (True, "1", False)]
)
def test_text(terminal: bool, no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    out = Terminal() if terminal else io.StringIO()
    line = TextFormatter(out).format(settle(record(level=logging.ERROR, job_id="j", why="two words", empty="", n=1)))
    assert ("\x1b[" in line) is coloured
    plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
    assert re.fullmatch(
        r'\d\d:04:05\.678 ERROR   worker job_failed           job_id=j why="two words" empty="" n=1', plain
    )


@pytest.mark.parametrize("value", ["a\nb", "\x1b[31m", "a=b", 'say "x"', "\u2028"])
def test_a_field_cannot_forge_a_line(value: str) -> None:
    line = TextFormatter(Terminal()).format(settle(record(value=value)))
    assert len(line.splitlines()) == 1
    assert json.loads(line.partition("value=")[2]) == value


def chained() -> None:
    try:
        int(QUOTED)
    except ValueError as error:
        raise KeyError(QUOTED) from error


def in_a_row() -> None:
    try:
        int(QUOTED)
    except ValueError:
        {}[QUOTED]


def grouped() -> None:
    raise ExceptionGroup(QUOTED, [ValueError(QUOTED), OSError(QUOTED)])


def suppressed() -> None:
    try:
        int(QUOTED)
    except ValueError:
        raise TypeError(QUOTED) from None


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (chained, ["ValueError", "direct cause", "KeyError"]),
        (in_a_row, ["ValueError", "another occurred", "KeyError"]),
        (grouped, ["ExceptionGroup (ValueError, OSError)"]),
        (suppressed, ["TypeError"]),
        (lambda: sys.exit(QUOTED), ["SystemExit"]),
    ],
)
def test_a_traceback_shows_code_and_no_words(function: Any, told: list[str]) -> None:
    error = caught(function)
    for formatter in (JsonFormatter(), TextFormatter(io.StringIO())):
        line = formatter.format(failed(error))
        assert QUOTED not in line
        assert "test_log_lines.py" in line
    text = told_traceback(error)
    found = [text.find(part) for part in told]
    assert -1 not in found
    assert found == sorted(found), text
    assert ("ValueError\n" in text) is (function in (chained, in_a_row)), "`from None` hides it, as Python does"


def test_an_exception_that_is_its_own_cause() -> None:
    error = ValueError("x")
    error.__cause__ = error
    assert told_traceback(error) == "ValueError"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError(QUOTED), "ValueError"),
        (KeyError(QUOTED), "KeyError"),
        (OSError(28, "No space left on device", f"{QUOTED}.txt"), "OSError: No space left on device"),
        (OSError(QUOTED), "OSError"),
        (
            redis.ConnectionError("Error 111 connecting to 127.0.0.1:6379."),
            "ConnectionError: Error 111 connecting to 127.0.0.1:6379.",
        ),
        (
            redis.ResponseError(f"OOM command not allowed, with args beginning with: '{QUOTED}'"),
            "ResponseError: OOM command not allowed",
        ),
        (
            redis.ResponseError(f"Command # 1 (EVALSHA 1 {QUOTED}) of pipeline caused error: MISCONF no disk"),
            "ResponseError: MISCONF no disk",
        ),
    ],
    ids=str,
)
def test_an_exception_in_a_field(error: BaseException, told: str) -> None:
    assert words(error) == told


def test_what_a_library_says_is_one_short_line() -> None:
    """The lines below quote what failed."""
    foreign = record(f"\n[{'x' * 600}\n{QUOTED}", name="celery.worker")
    assert settle(foreign).getMessage() == "[" + "x" * 499


def test_a_librarys_arguments_are_taken_now() -> None:
    foreign = record("%s and %s", name="celery")
    foreign.args = ("a", "b")
    assert settle(foreign).getMessage() == "a and b"


@pytest.mark.parametrize("said", ["a\x1b[2Jb", "a\rb", "a\u2028b", "a\x0bb"])
def test_a_library_cannot_forge_a_line_either(said: str) -> None:
    line = TextFormatter(io.StringIO()).format(settle(record(said, name="celery")))
    assert line.isprintable()
