"""What comes of an attempt: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

2xx is a success, 410 disables the receiver, all else is tried again; a redirect is not followed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from shared.scripts_webhooks import Came

_JITTER = 0.2  # so that what failed together does not come back together
_LONGEST_S = 86_400.0  # of a receiver's Retry-After
_BUSY = (429, 503)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`wait_s`: until the next attempt, for retry and back."""

    came: Came
    status: int | None = None
    error: str = ""
    wait_s: float = 0.0


def judge_answer(
    status: int,
    headers: Mapping[str, str],
    *,
    tries: int,
    schedule: Sequence[float],
    chance: Callable[[], float] = random.random,
) -> Verdict:
    """`tries`: attempts of the schedule that have failed before; `headers` with names in lower case."""
    if 200 <= status < 300:
        return Verdict("delivered", status)
    if status == 410:
        return Verdict("disabled", status)
    error = "a redirect is not followed" if 300 <= status < 400 else ""
    found = judge_failure(error, tries=tries, schedule=schedule, chance=chance)
    wait_s = found.wait_s
    if status in _BUSY:
        wait_s = max(wait_s, _retry_after(headers))
    return Verdict(found.came, status, error, wait_s)


def judge_failure(
    error: str, *, tries: int, schedule: Sequence[float], chance: Callable[[], float] = random.random
) -> Verdict:
    """Of an attempt without an answer."""
    if tries >= len(schedule):
        return Verdict("failed", error=error)
    return Verdict("retry", error=error, wait_s=schedule[tries] * (1 - _JITTER + 2 * _JITTER * chance()))


def _retry_after(headers: Mapping[str, str]) -> float:
    given = headers.get("retry-after", "").strip()
    try:
        if given.isdigit() and given.isascii():
            return min(_LONGEST_S, float(given))
        until = parsedate_to_datetime(given)
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return min(_LONGEST_S, max(0.0, (until - datetime.now(UTC)).total_seconds()))
    except (ValueError, OverflowError):
        return 0.0
