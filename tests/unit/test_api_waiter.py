"""The second look at what is waited for, with a real server: spread over the seconds, and nothing is left out."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from api.submitter import Submitter
from api.waiter import _TURNS, Waiter
from shared.calls import Call
from shared.settings import Settings
from shared.store import aconnect

JOBS = [f"job-{number}" for number in range(2000)]


class Seen(Submitter):
    """Remembers the jobs that it was asked for."""

    asked: list[str]

    async def run(self, *calls: Call[Any]) -> list[Any]:
        self.asked += [str(call.args[0]) for call in calls]
        return await super().run(*calls)


@pytest.fixture
async def submitter(redis_url: str) -> AsyncIterator[Seen]:
    client = aconnect(Settings(redis_url=redis_url))
    seen = Seen(client)
    seen.asked = []
    yield seen
    await seen.close()
    await client.aclose()


async def looked_at(waiter: Waiter, submitter: Seen, *turns: Iterable[int]) -> list[str]:
    submitter.asked.clear()
    await waiter._check(*turns)  # type: ignore[arg-type]  # a set, or nothing
    return list(submitter.asked)


async def test_each_turn_has_a_part_of_them_and_all_turns_have_all(submitter: Seen) -> None:
    waiter = Waiter(submitter._client, submitter, "channel")
    for job_id in JOBS:
        waiter.expect(job_id)
    parts = [await looked_at(waiter, submitter, {turn}) for turn in range(_TURNS)]
    assert max(map(len, parts)) < 2 * len(JOBS) / _TURNS
    assert sorted(itertools.chain(*parts)) == sorted(JOBS)
    assert await looked_at(waiter, submitter) == JOBS, "after a lost connection all at once"


async def test_who_follows_a_job_is_woken_in_its_turn(submitter: Seen) -> None:
    waiter = Waiter(submitter._client, submitter, "channel")
    with waiter.following("job") as following:
        woken = 0
        for turn in range(_TURNS):
            await waiter._check({turn})
            woken += following.woken.is_set()
            following.woken.clear()
        assert woken == 1
        await waiter._check()
        assert following.woken.is_set()
