"""How `map` goes through many inputs: which is next, how many at once, when to hold back. Pure: time is handed in."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from ml_service_client.core import calls
from ml_service_client.core.retries import MOST_S, Policy, may_retry
from ml_service_client.core.steps import Call, Request
from ml_service_client.errors import MLServiceError

PATIENCE_S = 300.0
# Answers that may overtake a slow one, for each that is under way.
_AHEAD = 4
# Refusals that mean "not now", whoever asks: no reason to give up on one input.
_NOT_NOW = frozenset({429, 503})


@dataclass(slots=True)
class Item:
    """One input on its way."""

    index: int
    given: Any
    key: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Pull:
    """Take the next input: `pulled`, or `exhausted`."""


@dataclass(frozen=True, slots=True)
class Start:
    """Send this one; then `landed` or `failed`."""

    item: Item


@dataclass(frozen=True, slots=True)
class Give:
    """The next result, in order; an exception if there is none."""

    result: Any


@dataclass(frozen=True, slots=True)
class Idle:
    """Until one lands, but no longer than so many seconds."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class End:
    """All is given."""


@dataclass(slots=True)
class Plan:
    """Memory is bounded: at most four times `concurrency` inputs are between the first not given and the last taken.

    When the service holds back (429, 503), nothing is sent for as long as it asks, half as many at once after that, and
    one more with each round of answers. Only when nothing has succeeded for `patience_s` are errors given out.
    """

    concurrency: int
    policy: Policy
    now: float
    key: Callable[[int], str] | None = None
    patience_s: float = PATIENCE_S
    done: int = 0
    bad: int = 0
    _limit: float = 0.0
    _taken: int = 0
    _given: int = 0
    _flying: int = 0
    _pulling: bool = False
    _exhausted: bool = False
    _closed_until: float = 0.0
    _again: deque[Item] = field(default_factory=deque)
    _results: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self._limit = float(self.concurrency)

    def next(self, now: float) -> Pull | Start | Give | Idle | End:
        """What to do now."""
        if self._given in self._results:
            self._given += 1
            return Give(self._results.pop(self._given - 1))
        if self._exhausted and self._given == self._taken:
            return End()
        if now < self._closed_until:
            return Idle(self._closed_until - now)
        if self._flying < int(self._limit):
            if self._again:
                self._flying += 1
                return Start(self._again.popleft())
            if not (self._exhausted or self._pulling) and self._taken - self._given < _AHEAD * self.concurrency:
                self._pulling = True
                return Pull()
        return Idle(None)

    def pulled(self, given: Any) -> None:
        """The input asked for."""
        key = self.key(self._taken) if self.key else uuid.uuid4().hex
        self._again.append(Item(self._taken, given, key))
        self._taken += 1
        self._pulling = False

    def exhausted(self) -> None:
        """There are no more inputs."""
        self._exhausted, self._pulling = True, False

    def landed(self, item: Item, result: Any, now: float) -> None:
        """It has an output."""
        self._flying -= 1
        self.now = now
        self._limit = min(float(self.concurrency), self._limit + 1 / self._limit)
        self.done += 1
        self._results[item.index] = result

    def failed(self, item: Item, error: Exception, now: float) -> None:
        """It has none: it goes again if that may help, else the error is its result."""
        self._flying -= 1
        delay = self._delay(item, error, now)
        if delay is None:
            if isinstance(error, MLServiceError) and error.job:
                self.now = now  # the service works, this input does not
            self.done, self.bad = self.done + 1, self.bad + 1
            self._results[item.index] = error
            return
        if now >= self._closed_until:  # the first of those that were under way
            self._limit = max(1.0, self._limit / 2)
        self._closed_until = max(self._closed_until, now + delay)
        item.attempt += 1
        self._again.append(item)

    def _delay(self, item: Item, error: Exception, now: float) -> float | None:
        asked_s, lasting = None, False
        if isinstance(error, MLServiceError):
            if not may_retry(_SENT, error.response) or (error.retry_after_s or 0) > MOST_S:
                return None
            asked_s, lasting = error.retry_after_s, error.status in _NOT_NOW
        elif isinstance(error, httpx.TransportError):
            if self.policy.after_error(_SENT, error, 0) is None and self.policy.retries:
                return None
            lasting = isinstance(error, httpx.ConnectError)
        else:
            return None
        if self.policy.retries == 0 or now - self.now > self.patience_s:
            return None
        if not lasting and item.attempt >= self.policy.retries:
            return None
        return self.policy.backoff_s(min(item.attempt, 4), asked_s)


_SENT = Request("POST", "/v1/jobs", headers={"Idempotency-Key": "-"})


def one(policy: Policy, model: str | None, item: Item, options: Mapping[str, Any]) -> Call[Any]:
    """One input of a map: its output. The plan, not the call, decides about another attempt at its submission."""
    once = Policy(0, policy.dice)
    mine = {**options, "idempotency_key": item.key}
    job = yield from calls.submit(once, model, item.given, mine, wait_s=calls.HOLD_S)
    if not job.done:
        job = yield from calls.wait(policy, job, None)
    job = yield from calls.whole(policy, job)
    return job.result()
