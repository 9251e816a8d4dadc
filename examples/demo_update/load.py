"""Constant load: users who ask again and again, each with a key of his own; and what each call saw."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

import httpx

PAUSE_S = (0.4, 1.2)  # of a user, between two calls


@dataclass(frozen=True, slots=True)
class Seen:
    """One call: seconds since the load began, at its start and at its answer."""

    user: int
    asked_s: float
    answered_s: float
    version: str

    @property
    def latency_ms(self) -> float:
        """As the caller saw it."""
        return (self.answered_s - self.asked_s) * 1000


@dataclass(slots=True)
class Load:
    """`seen` and `faults` grow until `stop` is set."""

    users: int
    texts: list[str]
    seen: list[Seen] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def now_s(self) -> float:
        """Since the load began."""
        return time.perf_counter() - self.began

    async def run(self, client: httpx.AsyncClient) -> None:
        """All users, until told to stop."""
        await asyncio.gather(*(self._user(client, number) for number in range(self.users)))

    async def _user(self, client: httpx.AsyncClient, number: int) -> None:
        turn, rng = 0, random.Random(number)
        while not self.stop.is_set():
            await asyncio.sleep(rng.uniform(*PAUSE_S))
            body = {"model_type": "bert", "data": {"text": self.texts[(number + turn) % len(self.texts)]}}
            asked = self.now_s
            try:
                answer = await client.post("/inference", json=body | {"sticky": f"user-{number}"})
            except httpx.TransportError as error:
                self.faults.append(repr(error))
                continue
            if answer.status_code == 200:
                self.seen.append(Seen(number, asked, self.now_s, answer.json()["version"]))
            else:
                self.faults.append(answer.text[:300])
            turn += 1
