"""The scripts of a key's list of jobs, of their progress, and of what they say. As in shared/scripts.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.calls import Call, script
from shared.scripts import Seen, seen
from shared.types import State


@dataclass(frozen=True, slots=True)
class Place:
    """In an owner's list: the last job that was seen there. `created_at` in ms."""

    created_at: int
    job_id: str


@dataclass(frozen=True, slots=True)
class Listed:
    """Jobs by their ids, the newest first (those that failed or were canceled with their outcome), and where to go on:
    None at the end of the list."""

    jobs: list[tuple[str, Seen]]
    place: Place | None


def list_jobs(
    owner: str,
    *,
    most: int,
    look: int,
    place: Place | None = None,
    states: Sequence[State] = (),
    model: str = "",
    version: str = "",
    labels: Sequence[str] = (),
) -> Call[Listed]:
    """At most `most` of an owner's jobs after `place`, of the next `look`: those in one of `states` (none: any), of
    this model and version, with all of these `labels` (`name:value`)."""
    at = (str(place.created_at), place.job_id) if place else ("", "")
    asked = "".join(f"{state.value}\n" for state in states)
    return Call(script("list"), (), (owner, most, look, *at, asked, model, version, *labels), _listed)


def _listed(reply: list[Any]) -> Listed:
    created_at, job_id, *rest = reply
    jobs = [
        (one.decode(errors="replace"), seen(pairs, meta))
        for one, pairs, meta in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
    ]
    return Listed(jobs, Place(int(float(created_at)), job_id.decode(errors="replace")) if created_at else None)


def progress(job_id: str, told: bytes, *, process: str) -> Call[bool]:
    """How far a job is that `process` runs, as JSON. False: it does not run there."""
    return Call(script("progress"), (), (process, job_id, told), bool)


def say(job_id: str, piece: bytes, *, process: str, attempt: int, at: int, most_bytes: int) -> Call[bool]:
    """A piece of what a job's run says, which `process` has under way, and its place. To be sent again where it is not
    known whether it was kept. False: no more of it is wanted."""
    return Call(script("say"), (), (process, job_id, attempt, at, piece, most_bytes), bool)
