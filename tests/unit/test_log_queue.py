"""A stderr that nobody reads holds up nobody: a real pipe, full."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import pytest

from shared.log_queue import Inlet, Outlet
from tests.conftest import wait_until

MOST = 100


@dataclass
class Piped:
    """A logger whose lines go through the queue into a pipe."""

    logger: logging.Logger
    outlet: Outlet
    read_end: TextIO
    write_end: int
    close: Callable[[], None]

    def fill(self) -> None:
        """Empty lines till not one more byte goes in: whoever writes now waits for a reader."""
        os.set_blocking(self.write_end, False)
        with contextlib.suppress(BlockingIOError):
            while os.write(self.write_end, b"\n"):
                pass
        os.set_blocking(self.write_end, True)

    def lines(self) -> list[str]:
        """All that was said; nothing more can be."""
        found: list[str] = []
        reader = threading.Thread(target=lambda: found.extend(self.read_end.read().splitlines()))
        reader.start()
        assert self.outlet.flush(30)
        self.close()
        reader.join()
        return found


@pytest.fixture
def piped() -> Iterator[Piped]:
    read_end, write_end = os.pipe()
    with open(read_end) as reader, open(write_end, "w") as writer:
        inlet = Inlet(queue.SimpleQueue(), most=MOST)
        out = logging.StreamHandler(writer)
        out.setFormatter(logging.Formatter("%(message)s %(fields)s", defaults={"fields": ""}))
        outlet = Outlet(inlet, out, logging.makeLogRecord({"msg": "dropped"}))
        outlet.start()
        logger = logging.Logger("ml.test")
        logger.addHandler(inlet)

        def close() -> None:
            if not writer.closed:
                outlet.stop()
                writer.close()

        piped = Piped(logger, outlet, reader, write_end, close)
        yield piped
        if not writer.closed:
            piped.lines()


def test_all_is_written_in_order(piped: Piped) -> None:
    for number in range(MOST):
        piped.logger.warning("line %d", number)
    assert [line.strip() for line in piped.lines()] == [f"line {number}" for number in range(MOST)]


def test_what_does_not_fit_is_counted_in_one_line(piped: Piped) -> None:
    said = 1000
    piped.fill()
    for number in range(said):
        piped.logger.warning("line %d", number)
    assert MOST - 1 <= piped.outlet.queue.qsize() <= MOST, "bounded; one line may be in the writer's hands"
    assert not piped.outlet.flush(0.05), "a flush is bounded too"
    lines = [line for line in piped.lines() if line]
    told = [line for line in lines if line.startswith("dropped")]
    assert len(told) == 1
    dropped = int("".join(filter(str.isdigit, told[0])))
    assert dropped > 0
    assert len(lines) - 1 + dropped == said


def test_many_threads(piped: Piped) -> None:
    """Each line is written or counted, once."""
    said, threads = 500, 8

    def talk() -> None:
        for number in range(said):
            piped.logger.warning("line %d", number)

    talking = [threading.Thread(target=talk) for _ in range(threads)]
    for thread in talking:
        thread.start()
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(piped.read_end.read().splitlines()))
    reader.start()
    for thread in talking:
        thread.join()
    wait_until(piped.outlet.queue.empty)
    piped.logger.warning("the last")  # tells of those before it
    assert piped.outlet.flush(30)
    piped.close()
    reader.join()
    dropped = sum(int("".join(filter(str.isdigit, line))) for line in found if line.startswith("dropped"))
    assert sum(line.startswith("line") for line in found) + dropped == said * threads


def test_nothing_of_the_callers_is_held(piped: Piped) -> None:
    """The line is made when it is said: what changes later, or is large, is not in the queue."""
    state: dict[str, Any] = {"a": 1}
    piped.logger.warning("state %s", state)
    state["a"] = 2
    try:
        raise ValueError("the input")
    except ValueError as error:
        record = piped.logger.makeRecord("ml.test", logging.ERROR, "f", 1, "x", (), (ValueError, error, None))
    settled = Inlet(queue.SimpleQueue()).prepare(record)
    assert settled.exc_info is None
    assert settled.args is None
    assert [line.strip() for line in piped.lines()] == ["state {'a': 1}"]
