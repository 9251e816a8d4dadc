"""What a log line looks like: JSON for machines, text for people. Neither ever shows what an exception says: its words
may quote an input. Type and traceback (which shows code, not values) are told instead."""

from __future__ import annotations

import json
import logging
import os
import re
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson
from redis import RedisError

_MOST_FOREIGN = 500  # characters of what a library says
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_ARGUMENTS = re.compile(r"^Command # \d+ \(.*?\) of pipeline caused error: |,? with args beginning with:.*", re.DOTALL)


def words(error: BaseException) -> str:
    """What may be told of an exception in one line: its type, and what Redis or the operating system said, without
    the command that was sent."""
    name = type(error).__name__
    if isinstance(error, RedisError):
        return f"{name}: {_ARGUMENTS.sub('', str(error))}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    return name


def told_traceback(error: BaseException) -> str:
    """As Python prints it, without the exceptions' words."""
    parts: list[str] = []
    seen: set[int] = set()
    link = ""
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        head = "Traceback (most recent call last):\n" if current.__traceback__ else ""
        frames = "".join(traceback.format_tb(current.__traceback__))
        parts.append(f"{head}{frames}{_name(current)}\n{link}")
        if current.__cause__ is not None:
            current, link = current.__cause__, "\nThe above exception was the direct cause of the following:\n\n"
        else:
            current = None if current.__suppress_context__ else current.__context__
            link = "\nDuring handling of the above exception, another occurred:\n\n"
    return "".join(reversed(parts)).rstrip("\n")


def _name(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    inner = ", ".join(_name(one) for one in error.exceptions) if isinstance(error, BaseExceptionGroup) else ""
    return f"{name} ({inner})" if inner else name


def settle(record: logging.LogRecord) -> logging.LogRecord:
    """All that is taken from elsewhere is taken now: the line may be written later, in another thread."""
    message = record.getMessage()
    if not record.name.startswith("ml."):  # a library's: the lines below the first have reprs of what failed
        message = next(iter(message.strip().splitlines()), "")[:_MOST_FOREIGN]
    record.msg, record.args, record.stack_info = message, None, None
    error = record.exc_info[1] if record.exc_info else None
    record.exc_text = told_traceback(error) if error is not None else None
    record.exc_info = None
    return record


class JsonFormatter(logging.Formatter):
    """One object a line. Of settled records."""

    def format(self, record: logging.LogRecord) -> str:
        """Any value can be written."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_text:
            line["exception"] = record.exc_text
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # half a surrogate pair, a number beyond 64 bits
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Columns, coloured on a terminal unless NO_COLOR is set (https://no-color.org). Of settled records."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._coloured = out.isatty() and not os.environ.get("NO_COLOR")

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it."""
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        part = record.name.removeprefix("ml.")
        fields = " ".join(f"{key}={_text(value)}" for key, value in getattr(record, "fields", {}).items())
        level = self._paint(f"{record.levelname:<7}", _COLOURS.get(record.levelname, "0"))
        event = self._paint(f"{_printable(record.getMessage()):<20}", "1")
        line = f"{self._paint(at, '2')} {level} {part:<6} {event} {fields}".rstrip()
        return f"{line}\n{record.exc_text}" if record.exc_text else line

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._coloured else text


def _printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _text(value: Any) -> str:
    """As it is where it is one plain word, else in quotes, on one line."""
    text = value if isinstance(value, str) else str(value)
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)
