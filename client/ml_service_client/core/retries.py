"""When to try again, and after how long. Pure but for the dice."""

from __future__ import annotations

import email.utils
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

import httpx

from ml_service_client.core.answers import error_of, problem_of
from ml_service_client.core.steps import Call, Request, Sleep

MOST_S = 60.0  # the service asks for no more; who does is not waited for
_FIRST_S, _LAST_S = 0.5, 8.0
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
# Nothing that another attempt changes.
_IN_VAIN = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
# The `t` of `RateLimit: "default";r=0;t=7`.
_RATE_LIMIT = re.compile(r";\s*t\s*=\s*(\d+)")


@dataclass(frozen=True, slots=True)
class Policy:
    """`retries`: how many attempts after the first. `dice` gives 0 to 1."""

    retries: int = 3
    dice: Callable[[], float] = random.random

    def backoff_s(self, attempt: int, asked_s: float | None = None) -> float:
        """Before the attempt after this one (from 0): never earlier than asked, and not all callers at once."""
        if asked_s is not None:
            return asked_s + self.dice() * max(0.25, asked_s / 10)
        return float(min(_LAST_S, _FIRST_S * 2**attempt)) * (0.5 + self.dice() / 2)

    def after_error(self, request: Request, error: httpx.TransportError, attempt: int) -> float | None:
        """How long to wait before trying again where no answer came; None: not again."""
        unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        if attempt >= self.retries or isinstance(error, _IN_VAIN) or not (unsent or request.repeatable):
            return None
        return self.backoff_s(attempt)

    def after_answer(self, request: Request, response: httpx.Response, attempt: int) -> float | None:
        """The same for an answer that is an error."""
        asked_s = retry_after_s(response)
        if attempt >= self.retries or not may_retry(request, response) or (asked_s or 0) > MOST_S:
            return None
        return self.backoff_s(attempt, asked_s)


def may_retry(request: Request, response: httpx.Response) -> bool:
    """Whether the same request may have another answer, and asking again does no work twice."""
    told = response.headers.get("x-should-retry")
    if told in ("true", "false"):
        return bool(told == "true" and request.repeatable)
    if response.status_code not in _RETRIED or problem_of(response).get("job"):
        return False  # of a job: it has ended, or goes on; the same key gives the same answer
    return request.repeatable or response.status_code == 429


def retry_after_s(response: httpx.Response) -> float | None:
    """What the service asks for: Retry-After in seconds or as a date, else the RateLimit of a 429."""
    given = response.headers.get("retry-after")
    if given is None:
        found = _RATE_LIMIT.search(response.headers.get("ratelimit", "")) if response.status_code == 429 else None
        return float(found[1]) if found else None
    if re.fullmatch(r"\d+(\.\d+)?", given.strip()):
        return float(given)
    try:
        until = email.utils.parsedate_to_datetime(given)
    except (TypeError, ValueError):
        return None
    now = datetime.now(timezone.utc)
    return max(0.0, ((until if until.tzinfo else until.replace(tzinfo=timezone.utc)) - now).total_seconds())


def exchange(request: Request, policy: Policy) -> Call[httpx.Response]:
    """The answer to a request, with retries. Raises MLServiceError, or the last httpx.TransportError."""
    attempt = 0
    while True:
        try:
            response = yield request
        except httpx.TransportError as error:
            delay = policy.after_error(request, error, attempt)
            if delay is None:
                raise
        else:
            if response is None:
                raise TypeError("a driver answers a Request with a response")
            if response.is_success:
                return response
            delay = policy.after_answer(request, response, attempt)
            if delay is None:
                raise error_of(response, retry_after_s(response))
        yield Sleep(delay)
        attempt += 1
