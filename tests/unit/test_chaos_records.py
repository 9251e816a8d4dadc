"""What `make chaos` and `make soak` write down and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.caller import understood
from tests.chaos.journal import Journal, Writer
from tests.chaos.records import Call, Lines, Tail, read_calls
from tests.chaos.soak import Sample, growth


def test_a_tail_reads_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert list(tail.read()) == []
    path.write_text('{"n":1}\n{"n":')
    assert list(tail.read()) == [{"n": 1}]
    with path.open("a") as file:
        file.write("2}\n")
    assert list(tail.read()) == [{"n": 2}]
    assert list(tail.read()) == []


def test_a_call_comes_back_as_it_was(tmp_path: Path) -> None:
    call = Call(3, "wait", 1.5, 2.5, 200, "", "id", "succeeded", {"n": 3}, "then")
    Lines(tmp_path / "log").write(call)
    assert read_calls(tmp_path / "log") == [call]


def test_a_killed_process_leaves_its_batch_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    killed, living = Writer(path, "worker-1"), Writer(path, "worker-2")
    killed.begin([1, 2])
    first = living.begin([3])
    assert (journal.in_progress(["worker-1", "worker-2"]), journal.in_progress(["worker-2"])) == (3, 1)
    living.begin([1])
    assert journal.in_progress(["worker-2"]) == 2, "batches of streams, side by side"
    living.end(first, [3])
    found = {(one.n, one.process, one.ended is None) for one in journal.executions()}
    assert found == {(1, "worker-1", True), (2, "worker-1", True), (3, "worker-2", False), (1, "worker-2", True)}
    assert journal.in_progress(["worker-2"]) == 1


@pytest.mark.parametrize(
    ("kind", "status", "body", "told"),
    [
        ("jobs", 202, {"id": "a", "state": "queued", "output": None, "error": None}, ("a", "queued", "", None)),
        ("inference", 200, {"job_id": "a", "output": {"n": 1}}, ("a", "succeeded", "", {"n": 1})),
        ("inference", 504, {"code": "wait_ended", "job": "/v1/jobs/a"}, ("a", "", "wait_ended", None)),
        (
            "inference",
            504,
            {"code": "deadline_exceeded", "job": "/v1/jobs/a"},
            ("a", "failed", "deadline_exceeded", None),
        ),
        ("inference", 503, {"code": "store_unavailable"}, ("", "", "store_unavailable", None)),
        ("wait", 404, {"code": "job_not_found"}, ("", "", "job_not_found", None)),
        ("wait", 200, {"id": "a", "state": "failed", "error": {"code": "timeout"}}, ("a", "failed", "timeout", None)),
    ],
)
def test_what_an_answer_says_of_its_job(kind: str, status: int, body: dict[str, Any], told: tuple[Any, ...]) -> None:
    call = understood(1, kind, 0.0, httpx.Response(status, json=body))
    assert call.status == status
    assert (call.job_id, call.state, call.error, call.output) == told


def test_growth_is_from_a_tenth_of_the_jobs_to_all_of_them() -> None:
    flat = [Sample(n, n / 100, 100, 200, 0, 0) for n in range(0, 1001, 10)]
    assert growth(flat, "api", 1000) == 0
    # What is there before the first tenth is warm-up.
    grown = [Sample(n, 0, 50 if n < 80 else 100 + n // 10, 200, 0, 0) for n in range(0, 1001, 10)]
    assert growth(grown, "api", 1000) == pytest.approx(198 / 110 - 1)
    assert growth(grown, "worker", 1000) == 0
