"""The judge of `make chaos` goes red on each thing that it is there for, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos import reference
from tests.chaos.judge import KINDS, Left, Run, Terms, Verdict, hits, judge
from tests.chaos.records import Call, Event, Execution

TERMS = Terms(jobs=4, late_s=10.0, ratio=2.0, each_kind=1, events=len(KINDS))


def expected(n: int) -> dict[str, Any]:
    return reference.expected(7, n)


def green() -> Run:
    """Four jobs, one of each way to ask; the worker that had job 1 was killed, and another ran it again."""
    calls = [
        Call(0, "jobs", 1.0, 1.1, 202, "", "id-0", "queued"),
        Call(0, "wait", 1.1, 2.0, 200, "", "id-0", "succeeded", expected(0), "t0"),
        Call(1, "inference", 0.2, 0.5, 503, "store_unavailable"),
        Call(1, "inference", 1.0, 3.2, 0, "ReadError"),
        Call(1, "inference", 3.3, 9.5, 200, "", "id-1", "succeeded", expected(1)),
        Call(2, "send_task", 1.0, 1.1, 202, "", "id-2"),
        Call(2, "result", 1.1, 2.5, 200, "", "id-2", "succeeded", expected(2)),
        Call(3, "inference", 1.0, 2.9, 504, "wait_ended", "id-3"),
        Call(3, "wait", 2.9, 4.0, 0, "dropped"),
        Call(3, "wait", 4.1, 4.5, 200, "", "id-3", "succeeded", expected(3), "t3"),
    ]
    calls += [Call(n, "again", 20.0, 21.0, 200, "", f"id-{n}", "succeeded", expected(n), f"t{n}") for n in range(4)]
    executions = [Execution(n, "worker-1", 1.5, 1.9) for n in (0, 2, 3)]
    executions += [Execution(1, "worker-2", 1.5, None), Execution(1, "worker-1", 6.0, 6.2)]
    events = [Event(kind, 10.0 + place, "it", 1, 1.0) for place, kind in enumerate(KINDS)]
    for event in events:
        if event.kind == "worker-kill":
            event.at, event.killed = 1.7, "worker-2"
        elif event.kind == "api-kill":
            event.at = 3.1
        elif event.kind == "callers-drop":
            event.at = 3.9
    return Run(calls, executions, events, Left(counters={"succeeded": 4, "queued": 0, "running": 0, "bytes": 0}))


def verdict(run: Run, terms: Terms = TERMS) -> Verdict:
    return judge(run, terms, expected)


def told(run: Run, change: Callable[[Call], Call | None]) -> Run:
    """The run with other calls."""
    return replace(run, calls=[new for call in run.calls if (new := change(call)) is not None])


def only(n: int, kind: str, **fields: Any) -> Callable[[Call], Call]:
    return lambda call: replace(call, **fields) if (call.n, call.kind) == (n, kind) and call.status else call


def without(n: int, *kinds: str) -> Callable[[Call], Call | None]:
    return lambda call: None if call.n == n and call.kind in kinds else call


def test_a_good_run_is_green() -> None:
    found = verdict(green())
    assert found.faults == {}
    assert (found.figures["jobs"], found.figures["executions"], found.figures["ratio"]) == (4, 5, 1.25)
    # Held in a wait, job 1 counts from the first call on that was not refused: 9.5 - 1.0.
    assert (found.figures["max_s"], found.figures["p99_s"]) == (8.5, 8.5)
    assert found.figures["calls_broken"] == {"store_unavailable": 1, "ReadError": 1, "wait_ended": 1, "dropped": 1}


def test_a_lost_job() -> None:
    found = verdict(told(green(), without(0, "wait", "again")))
    assert found.faults == {"lost": ["job 0 id-0: accepted, no outcome"]}


def test_a_lost_record() -> None:
    found = verdict(told(green(), only(2, "again", status=404, error="job_not_found", state="", output=None)))
    assert found.faults["callers"] == ["job 2 id-2: again got 404 job_not_found"]
    assert found.faults["outcomes"] == ["job 2 id-2: no second reading"]


@pytest.mark.parametrize(
    "fields", [{"finished_at": "later"}, {"state": "failed", "output": None}, {"output": {"n": 0, "digest": "other"}}]
)
def test_a_doubled_outcome(fields: dict[str, Any]) -> None:
    assert len(verdict(told(green(), only(0, "again", **fields))).faults["outcomes"]) == 1


def test_one_key_two_jobs() -> None:
    found = verdict(told(green(), only(0, "wait", job_id="id-9")))
    assert found.faults == {"outcomes": ["job 0: accepted as id-0 id-9"]}


def test_a_wrong_output() -> None:
    everywhere = lambda call: replace(call, output=expected(1)) if call.n == 0 and call.output else call  # noqa: E731 - beside its use
    assert verdict(told(green(), everywhere)).faults == {"outputs": ["job 0 id-0: wrong output"]}


def test_a_job_that_failed() -> None:
    def failed(call: Call) -> Call:
        done = call.n == 2 and call.state == "succeeded"
        return replace(call, state="failed", error="deadline_exceeded", output=None) if done else call

    assert verdict(told(green(), failed)).faults == {"outputs": ["job 2 id-2: failed deadline_exceeded"]}


def test_a_caller_who_is_told_nonsense_or_nothing() -> None:
    run = green()
    calls = [*run.calls, Call(0, "jobs", 1.0, 1.0, 500, "internal_error"), Call(5, "jobs", 1.0, 91.0, 0, "gave up")]
    assert verdict(replace(run, calls=calls)).faults == {
        "callers": ["job 0 : jobs got 500 internal_error", "job 5 : jobs was never answered"]
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(Execution(0, "worker-1", 1.5, 1.9), Execution(0, "worker-3", 1.95, 1.99), id="nobody was killed"),
        pytest.param(Execution(0, "worker-2", 1.5, None), Execution(0, "worker-3", 1.6, 1.9), id="before the kill"),
        pytest.param(
            Execution(0, "worker-2", 1.8, 1.9), Execution(0, "worker-3", 1.95, 1.99), id="begun after the kill"
        ),
        pytest.param(Execution(0, "worker-2", -5, -4), Execution(0, "worker-3", 1.95, 1.99), id="held no more"),
        pytest.param(Execution(0, "worker-2", 1.5, None), Execution(0, "worker-3", 2.1, 2.2), id="answered already"),
    ],
)
def test_an_unexplained_second_execution(first: Execution, second: Execution) -> None:
    run = green()
    others = [one for one in run.executions if one.n != 0]
    assert list(verdict(replace(run, executions=[*others, first, second])).faults) == ["executions"]


def test_an_explained_second_execution_needs_its_own_kill() -> None:
    run = green()
    third = Execution(1, "worker-3", 7.0, 7.2)
    assert list(verdict(replace(run, executions=[*run.executions, third])).faults) == ["executions"]


def test_an_output_that_could_not_be_written_is_held() -> None:
    """It was computed long before the kill, but Redis was away in between."""
    run = green()
    others = [one for one in run.executions if one.n != 1]
    twice = [Execution(1, "worker-2", -5.0, -4.0), Execution(1, "worker-1", 6.0, 6.2)]
    held = replace(run, executions=[*others, *twice])
    assert list(verdict(held).faults) == ["executions"]
    away = [replace(event, at=-4.5, back_s=5.0) if event.kind == "redis-kill" else event for event in run.events]
    assert verdict(replace(held, events=away)).faults == {}


def test_an_answer_that_nobody_computed() -> None:
    run = green()
    found = verdict(replace(run, executions=[one for one in run.executions if one.n != 3]))
    assert found.faults == {"executions": ["job 3: answered, never executed"]}


def test_too_many_executions() -> None:
    assert list(verdict(green(), replace(TERMS, ratio=1.2)).faults) == ["executions"]


def test_slow_progress() -> None:
    assert list(verdict(green(), replace(TERMS, late_s=8.0)).faults) == ["progress"]


@pytest.mark.parametrize(
    ("left", "what"),
    [
        (Left(unacked=1), "1 unacked messages"),
        (Left(leases=2), "2 leases"),
        (Left(queued=3), "3 messages in queues"),
        (Left(deadlines=1), "1 deadlines"),
        (Left(dead_letters=1), "1 dead letters"),
        (Left(workers=1), "1 workers"),
        (Left(counters={"running": 1}), "1 running by the counter"),
        (Left(counters={"queued": -1}), "-1 queued by the counter"),
        (Left(counters={"bytes": 8}), "8 bytes by the counter"),
        (Left(forever=["ml:job:x"]), "key without a TTL: 'ml:job:x'"),
    ],
)
def test_what_is_left_in_redis(left: Left, what: str) -> None:
    assert verdict(replace(green(), left=left)).faults == {"left": [what]}


def test_an_event_that_hit_nothing() -> None:
    run = green()
    events = [replace(event, hit=0) if event.kind == "redis-cut" else event for event in run.events]
    assert verdict(replace(run, events=events)).faults == {"events": ["redis-cut of it hit nothing in flight"]}
    # A kill of an API process, and a hang-up, are seen by the callers alone.
    calm = told(run, lambda call: None if call.error == "ReadError" else call)
    assert verdict(calm).faults == {"events": ["api-kill of it hit nothing in flight"]}
    (drop,) = [event for event in run.events if event.kind == "callers-drop"]
    assert hits(drop, run.calls) == 1


def test_too_few_events_and_jobs() -> None:
    run = green()
    fewer = replace(run, events=[event for event in run.events if event.kind != "redis-term"])
    found = verdict(fewer, replace(TERMS, jobs=5)).faults
    assert found == {"events": ["redis-term came 0 times", "only 9 of 10 events", "only 4 of 5 jobs"]}


def test_a_process_that_died_unasked() -> None:
    assert verdict(replace(green(), died=["api-1 ended"])).faults == {"processes": ["api-1 ended"]}


def test_the_reference_sees_every_character() -> None:
    asked = reference.question(7, 97)
    assert len(asked["text"]) > 32_000, "some inputs go through the payload store"
    assert reference.answer(**asked) == expected(97)
    assert reference.answer(**asked | {"text": asked["text"][:-1]}) != expected(97)
