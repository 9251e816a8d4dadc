"""What a job costs, in counts that no machine's mood changes: Redis commands by script, Python calls by step. One that
costs more has to be worth it: raise its number in the commit that makes it so, and say why."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import redis

from shared import keys, messages, scripts
from shared.outcomes import encode_outcome
from shared.types import Outcome, State

JOBS = 128
REF, QUEUE = "echo@1", keys.queue_name("echo", "1")
LIST = keys.queue_list(QUEUE, keys.NORMAL)
LISTS = keys.drained_lists([keys.INTAKE, QUEUE], messages.VERSION)
IDS = [f"job-{number}" for number in range(JOBS)]

# Redis commands a job, those inside of scripts too: (without a key, of a key in its lane); a submit looks at old
# entries of the list of jobs every fourth time, by chance
COMMANDS = {"submit": (14.5, 18.5), "drain": (0.5, 4.5), "claim": (2.5, 2.5), "finish": (6.5, 6.5)}
EMPTY_DRAIN = 2 * len(LISTS) + 4  # each list is looked at once, and whether it has lanes


def submit(job_id: str, owner: str) -> scripts.Call[scripts.Submitted]:
    return scripts.submit(
        job_id,
        list_name=LIST,
        raw=messages.build(job_id, queue=QUEUE, priority=keys.NORMAL, model="echo", version="1", input=1, owner=owner),
        ref=REF,
        deadline_ms=3_600_000,
        ttl_ms=60_000,
        size=1,
        max_jobs=10**6,
        max_bytes=10**9,
        ahead=keys.urgent_lists(QUEUE, keys.NORMAL),
        after=keys.patient_lists(QUEUE, keys.NORMAL),
        share=scripts.Share(owner),
        fields={"model": "echo", "version": "1", "owner": owner or keys.ANONYMOUS},
    )


def finish(owner: str) -> scripts.Call[Any]:
    usage = scripts.Usage(1, 0, 100) if owner else None
    ends = [scripts.End(job_id, job_id, State.SUCCEEDED, "", b"{}", usage=usage) for job_id in IDS]
    return scripts.finish_some(ends, ttl_ms=60_000)


def commands(store: redis.Redis, calls: list[scripts.Call[Any]]) -> float:
    """How many Redis has run for them."""

    def so_far() -> int:
        return sum(told["calls"] for told in store.info("commandstats").values())

    scripts.run(store, calls[:0])
    before = so_far()
    replies = scripts.run(store, calls)
    assert not [reply for reply in replies if isinstance(reply, Exception)]
    return so_far() - before - 1  # the first look


@pytest.mark.parametrize("owner", ["", "key_a"])
def test_redis_commands_a_job(store: redis.Redis, owner: str) -> None:
    steps: dict[str, list[scripts.Call[Any]]] = {
        "submit": [submit(job_id, owner) for job_id in IDS],
        "drain": [scripts.drain(LISTS, [JOBS] * len(LISTS), process="p")],
        "claim": [scripts.claim(IDS, process="p", worker="w", max_attempts=3)],
        "finish": [finish(owner)],
    }
    # Scripts that the server does not know yet would count twice.
    claim = scripts.claim(["x"], process="p", worker="w", max_attempts=3)
    scripts.run(store, [submit("x", owner), steps["drain"][0], claim, finish(owner)])
    for name, calls in steps.items():
        most = COMMANDS[name][bool(owner)] * JOBS + (EMPTY_DRAIN if name == "drain" else 0)
        assert commands(store, calls) <= most, name


def test_a_drain_that_finds_nothing(store: redis.Redis) -> None:
    drain = scripts.drain(LISTS, [JOBS] * len(LISTS), process="p")
    scripts.run(store, [drain])
    assert commands(store, [drain]) <= EMPTY_DRAIN


def calls(action: Callable[[], Any]) -> int:
    """Python functions that it calls, itself included."""
    count = 0

    def seen(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    action()  # what is made once
    sys.setprofile(seen)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def test_python_calls_a_job() -> None:
    outcome = Outcome(State.SUCCEEDED, output=[0.5] * 384, timing={"prepare_ms": 1.0, "predict_ms": 2.0})
    assert calls(lambda: submit("a", "").command()) <= 30
    assert calls(lambda: encode_outcome("a", outcome, attempt=1, started_at=1)) <= 6
    assert calls(lambda: finish("").command()) <= 3 * JOBS + 10
