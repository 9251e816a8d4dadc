"""What a provider's refusal means for a job: try later, the caller's input, or a failure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from worker.handler import ItemError, TryLater

PROVIDER_ERROR = "provider_error"
_BUSY_S = 5.0  # where a provider that is busy does not say for how long
_LONGEST_S = 3600.0
_INPUT = frozenset((400, 413, 415, 422))
_PASSING = frozenset((408, 409, 425))  # and from 500 on, but for:
_LASTING = frozenset((501, 505))
_OURS = frozenset((401, 402, 403, 407))  # what is wrong is our account, of which callers are told no more


def refused(who: str, status: int, message: str, headers: Mapping[str, str], *, final: bool = False) -> Exception:
    """To be raised in `predict`, for an answer with this status. `final`: the provider's own words say that trying
    again is of no use. A `Retry-After` is honoured as RFC 9110 (10.2.3) has it, OpenAI's `retry-after-ms` too."""
    told = f"{who} answered {status}: {message}"
    if status in _OURS:
        return ItemError(f"{who} does not let this service in ({status})", code=PROVIDER_ERROR)
    if status in _INPUT and not final:
        return ItemError(told, code="invalid_input")
    if final or headers.get("x-should-retry") == "false":
        return ItemError(told, code=PROVIDER_ERROR)
    after_s = retry_after_s(headers)
    if status == 429:
        return TryLater(told, after_s=_BUSY_S if after_s is None else after_s, code="rate_limited")
    if status in _PASSING or (status >= 500 and status not in _LASTING):
        return TryLater(told, after_s=after_s, code=PROVIDER_ERROR)
    return ItemError(told, code=PROVIDER_ERROR)


def unreachable(who: str, error: Exception, *, timeout: bool) -> TryLater:
    """No answer came, or not in time."""
    what = "did not answer in time" if timeout else "cannot be reached"
    return TryLater(f"{who} {what}: {type(error).__name__}", code="timeout" if timeout else PROVIDER_ERROR)


def broken(who: str, what: str) -> ItemError:
    """It answered what it should not."""
    return ItemError(f"{who} {what}", code="handler_contract")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """An hour at most; None: it does not say, or not in a way that is known."""
    found = _number(headers.get("retry-after-ms"))
    if found is not None:
        found /= 1000
    else:
        text = headers.get("retry-after")
        found = _number(text)
        if found is None and text:
            try:
                found = parsedate_to_datetime(text).timestamp() - time.time()
            except ValueError:
                return None
    return None if found is None else min(_LONGEST_S, max(0.0, found))


def _number(text: str | None) -> float | None:
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if 0 <= found < float("inf") else None
