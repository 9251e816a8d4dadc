"""The judge. Pure: it gets what callers, handler and driver wrote down, and what was left in Redis.

Callers are believed before the service: a record that Redis has lost cannot be found in Redis.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.chaos.records import Call, Event, Execution

KINDS = (
    "worker-kill",
    "worker-term",
    "api-kill",
    "api-term",
    "redis-kill",
    "redis-term",
    "redis-cut",
    "redis-pause",
    "callers-drop",
    "model-update",
)
"""Everything that is done to the stack; the `kind` of an event."""

EXPECTED = {0, 200, 202, 503, 504}  # statuses that a caller may see; 0 is a lost connection
TERMINAL = ("succeeded", "failed", "canceled")
_WRITE_S = 2.0  # a computed output is an outcome in Redis long before this
_CUT_S = 2.0  # a caller sees a lost connection at once; this is for a busy machine


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of a run. `late_s`: of p99, from acceptance to the caller's answer. `ratio`: executions by jobs."""

    jobs: int
    late_s: float
    ratio: float
    each_kind: int
    events: int


@dataclass(frozen=True, slots=True)
class Left:
    """In Redis when all is over. `counters`: of all versions together; `forever`: keys that lack a TTL and may not."""

    unacked: int = 0
    leases: int = 0
    queued: int = 0
    deadlines: int = 0
    dead_letters: int = 0
    workers: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)
    forever: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """All that is known of one seed. `died`: processes that ended unasked, or not as they should."""

    calls: Sequence[Call]
    executions: Sequence[Execution]
    events: Sequence[Event]
    left: Left
    died: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """`faults`: rule, then what was found; empty is green."""

    faults: Mapping[str, Sequence[str]]
    figures: Mapping[str, Any]


@dataclass(slots=True)
class _Job:
    """One number's story as its caller saw it."""

    n: int
    ids: set[str] = field(default_factory=set)
    accepted_at: float | None = None
    answers: list[Call] = field(default_factory=list)


def judge(run: Run, terms: Terms, expected: Callable[[int], Any]) -> Verdict:
    """`expected(n)`: the output of job n."""
    jobs = _stories(run.calls)
    faults: dict[str, list[str]] = {
        "callers": _callers(run.calls),
        "lost": [f"job {job.n} {_id(job)}: accepted, no outcome" for job in jobs if not job.answers],
        "outcomes": [line for job in jobs for line in _outcomes(job)],
        "outputs": [line for job in jobs for line in _outputs(job, expected)],
        "executions": _second_executions(run, jobs),
        "progress": _progress(jobs, terms),
        "left": _left(run.left),
        "events": _events(run, terms),
        "processes": list(run.died),
    }
    if len(jobs) < terms.jobs:
        faults["events"].append(f"only {len(jobs)} of {terms.jobs} jobs")
    figures = _figures(run, jobs)
    if figures["ratio"] > terms.ratio:
        faults["executions"].append(f"{figures['ratio']:.4f} executions a job, more than {terms.ratio}")
    return Verdict({rule: found for rule, found in faults.items() if found}, figures)


def _stories(calls: Sequence[Call]) -> list[_Job]:
    """The accepted jobs. One that its caller only ever saw held in a wait counts from the first call on that was not
    refused."""
    jobs: dict[int, _Job] = {}
    first: dict[int, float] = {}
    for call in sorted(calls, key=lambda one: one.ended):
        if call.status != 503:
            first.setdefault(call.n, call.sent)
        if not call.job_id:
            continue
        job = jobs.setdefault(call.n, _Job(call.n))
        job.ids.add(call.job_id)
        if job.accepted_at is None:
            job.accepted_at = call.ended if call.status == 202 else first.get(call.n, call.sent)
        if call.state in TERMINAL:
            job.answers.append(call)
    return list(jobs.values())


def _id(job: _Job) -> str:
    return " ".join(sorted(job.ids))


def _callers(calls: Sequence[Call]) -> list[str]:
    """What no caller may be told, and who was told nothing."""
    found = []
    for call in calls:
        if call.status not in EXPECTED:
            found.append(f"job {call.n} {call.job_id}: {call.kind} got {call.status} {call.error}")
        elif call.error == "gave up":
            found.append(f"job {call.n} {call.job_id}: {call.kind} was never answered")
    return found


def _outcomes(job: _Job) -> list[str]:
    """One id a job, read at least twice, the same each time."""
    if len(job.ids) > 1:
        return [f"job {job.n}: accepted as {_id(job)}"]
    if not job.answers:
        return []
    found = []
    first = job.answers[0]
    for other in job.answers[1:]:
        differs = (first.state, first.output) != (other.state, other.output)
        if first.finished_at and other.finished_at:
            differs = differs or first.finished_at != other.finished_at
        if differs:
            found.append(f"job {job.n} {_id(job)}: first {_told(first)}, then {_told(other)}")
    if not any(call.kind == "again" for call in job.answers):
        found.append(f"job {job.n} {_id(job)}: no second reading")
    return found


def _told(call: Call) -> str:
    return f"{call.state} at {call.finished_at or '?'} ({call.kind})"


def _outputs(job: _Job, expected: Callable[[int], Any]) -> list[str]:
    found = []
    for call in job.answers:
        if call.state != "succeeded":
            found.append(f"job {job.n} {_id(job)}: {call.state} {call.error}")
        elif call.output != expected(job.n):
            found.append(f"job {job.n} {_id(job)}: wrong output")
    return found[:1]


def _second_executions(run: Run, jobs: Sequence[_Job]) -> list[str]:
    """Each execution but the first needs a kill -9 of the process that held the job, and no caller with the answer."""
    killed = {event.killed: event.at for event in run.events if event.killed}
    outages = [(event.at, event.at + event.back_s) for event in run.events if event.kind.startswith("redis-")]
    answered = {job.n: job.answers[0].ended for job in jobs if job.answers}
    by_number: dict[int, list[Execution]] = defaultdict(list)
    for one in run.executions:
        by_number[one.n].append(one)
    found = []
    for n, executions in by_number.items():
        executions.sort(key=lambda one: one.begun)
        for before, again in pairwise(executions):
            killed_at = killed.get(before.process)
            if killed_at is None or killed_at > again.begun or not _held(before, killed_at, outages):
                found.append(
                    f"job {n}: {before.process} began it at {before.begun:.3f} ({_ended(before)}), {again.process} "
                    f"again at {again.begun:.3f}"
                )
            elif answered.get(n, again.begun) < again.begun:
                found.append(f"job {n}: {again.process} began it after its caller had the answer")
    missing = [job.n for job in jobs if job.n not in by_number]
    return found + [f"job {n}: answered, never executed" for n in missing]


def _held(before: Execution, killed_at: float, outages: Sequence[tuple[float, float]]) -> bool:
    """Whether a process still held a job when it was killed: it computed it, or had no time or no Redis to write."""
    if before.begun > killed_at:
        return False
    if before.ended is None or killed_at - before.ended < _WRITE_S:
        return True
    return any(begun < killed_at and over > before.ended for begun, over in outages)


def _ended(execution: Execution) -> str:
    return "never ended" if execution.ended is None else f"ended at {execution.ended:.3f}"


def _latencies(jobs: Sequence[_Job]) -> list[float]:
    return sorted(job.answers[0].ended - job.accepted_at for job in jobs if job.answers and job.accepted_at is not None)


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _progress(jobs: Sequence[_Job], terms: Terms) -> list[str]:
    p99 = _share(_latencies(jobs), 0.99)
    return [f"p99 until the answer is {p99:.2f} s, not below {terms.late_s:.2f} s"] if p99 >= terms.late_s else []


def _left(left: Left) -> list[str]:
    counts = {
        "unacked messages": left.unacked,
        "leases": left.leases,
        "messages in queues": left.queued,
        "deadlines": left.deadlines,
        "dead letters": left.dead_letters,
        "workers": left.workers,
    }
    counts |= {f"{name} by the counter": left.counters.get(name, 0) for name in ("queued", "running", "bytes")}
    found = [f"{count} {what}" for what, count in counts.items() if count]
    return found + [f"key without a TTL: {key!r}" for key in left.forever]


def hits(event: Event, calls: Sequence[Call]) -> int:
    """How much work in flight an event met. A killed API and a caller who hangs up are seen by the callers alone."""
    if event.kind not in ("api-kill", "callers-drop"):
        return event.hit
    cut = [call for call in calls if call.sent < event.at <= call.ended < event.at + _CUT_S and call.status == 0]
    return sum((call.error == "dropped") == (event.kind == "callers-drop") for call in cut)


def _events(run: Run, terms: Terms) -> list[str]:
    counts = Counter(event.kind for event in run.events)
    found = [f"{kind} came {counts[kind]} times" for kind in KINDS if counts[kind] < terms.each_kind]
    if len(run.events) < terms.events:
        found.append(f"only {len(run.events)} of {terms.events} events")
    return found + [f"{e.kind} of {e.target} hit nothing in flight" for e in run.events if not hits(e, run.calls)]


def _figures(run: Run, jobs: Sequence[_Job]) -> dict[str, Any]:
    accepted = {job.n for job in jobs}
    executions = sum(one.n in accepted for one in run.executions)
    late = _latencies(jobs)
    seen = Counter(call.error or str(call.status) for call in run.calls if call.status not in (200, 202))
    return {
        "jobs": len(jobs),
        "answers": sum(len(job.answers) for job in jobs),
        "executions": executions,
        "ratio": executions / len(jobs) if jobs else 0.0,
        "p50_s": _share(late, 0.5),
        "p99_s": _share(late, 0.99),
        "max_s": late[-1] if late else 0.0,
        "calls": len(run.calls),
        "calls_broken": dict(seen.most_common()),
        "by": dict(Counter(job.answers[0].kind for job in jobs if job.answers)),
    }
