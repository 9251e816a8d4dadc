"""A key's list of its jobs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from api.auth import Caller
from api.pauses import Pauses
from api.presence import Presence
from api.schemas import JobPage
from api.submitter import Submitter
from api.waits import wait_of
from shared.errors import InvalidInput, RecordUnreadable, StoreUnavailable
from shared.outcomes import job_view
from shared.scripts_jobs import Listed, Place, list_jobs
from shared.types import Job, State

_LOOK = 250  # entries of one script call: how long Redis is busy with it at a stretch
_MOST_LOOKS = 8  # of one page
_CURSOR = re.compile(r"([0-9]{1,15})-(.{1,512})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which jobs. `model` may be `name@version`; `labels` are `name:value`, and all must be there; of `states` one."""

    states: Sequence[State] = ()
    model: str = ""
    labels: Sequence[str] = ()


class JobList:
    """For one event loop."""

    def __init__(self, submitter: Submitter, presence: Presence, pauses: Pauses) -> None:
        self._submitter, self._presence, self._pauses = submitter, presence, pauses

    async def page(self, caller: Caller, asked: Asked, *, limit: int, cursor: str | None = None) -> JobPage:
        """The newest first, without output, at most `limit`, after `cursor`. Where a filter lets few through a page may
        be short, or empty, and yet not the last. Raises InvalidInput for a cursor that is none, StoreUnavailable."""
        place, found = _place(cursor), list[Job]()
        model, _, version = asked.model.partition("@")
        for _ in range(_MOST_LOOKS):
            listed: Listed = await self._submitter.one(
                list_jobs(
                    caller.owner,
                    most=limit - len(found),
                    look=_LOOK,
                    place=place,
                    states=asked.states,
                    model=model,
                    version=version,
                    labels=asked.labels,
                )
            )
            for job_id, seen in listed.jobs:
                with contextlib.suppress(RecordUnreadable):  # one that somebody has damaged does not hide the others
                    found.append(job_view(job_id, seen.record, seen.meta))
            place = listed.place
            if place is None or len(found) >= limit:
                break
        await self._tell_waits(found)
        return JobPage(data=found, next=None if place is None else f"{place.created_at}-{place.job_id}")

    async def _tell_waits(self, jobs: list[Job]) -> None:
        queued = [job for job in jobs if job.state is State.QUEUED]
        if queued:
            with contextlib.suppress(StoreUnavailable):  # the jobs themselves are known
                workers, paused = await self._presence.workers(), await self._pauses.read()
                for job in queued:
                    job.waiting_for = wait_of(job, workers, paused=job.model in paused)


def _place(cursor: str | None) -> Place | None:
    if cursor is None:
        return None
    parts = _CURSOR.fullmatch(cursor)
    if parts is None:
        raise InvalidInput("cursor must be the `next` of a page")
    return Place(int(parts[1]), parts[2])
