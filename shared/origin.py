"""Where the work in hand comes from: the request's id, the job's, and the place in a trace. Set once where a request
begins; log lines and new jobs take it from here, whatever face the request came through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from shared import trace_context
from shared.trace_context import TraceContext

_LONGEST_ID = 128  # of a job, in a log line
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class Carried:
    """What travels with a job: in its message's headers, where plain producers that are traced have the trace too, and
    in its record."""

    request_id: str = ""
    trace: TraceContext | None = None

    @classmethod
    def of(cls, headers: Mapping[str, Any]) -> Carried:
        """What is not as it should be is left out."""
        return cls(as_request_id(headers.get("ml_request_id")), trace_context.of(headers))

    def headers(self) -> dict[str, str]:
        """For a message."""
        return _given({"ml_request_id": self.request_id}) | self._trace()

    def fields(self) -> dict[str, str | int]:
        """For a record."""
        return {**_given({"request_id": self.request_id}), **self._trace()}

    def _trace(self) -> dict[str, str]:
        return self.trace.headers() if self.trace else {}


@dataclass(slots=True)
class Origin:
    """Of the work in hand. `job_id` is filled in when the job is known."""

    request_id: str = ""
    job_id: str = ""

    def names(self) -> dict[str, str]:
        """For a log line."""
        return _given({"request_id": self.request_id, "job_id": self.job_id})


def of_message(headers: Any, tag: str) -> Origin:
    """Of a message of which nothing is sure: its delivery tag where it names no job."""
    if not isinstance(headers, Mapping):
        return Origin(job_id=tag)
    told = headers.get("id")
    return Origin(as_request_id(headers.get("ml_request_id")), told[:_LONGEST_ID] if isinstance(told, str) else tag)


_NOWHERE = Origin()  # never changed: `about` leaves it as it is
_current: ContextVar[Origin] = ContextVar("origin", default=_NOWHERE)


def current() -> Origin:
    """Of this task or thread; an empty one outside of any request."""
    return _current.get()


def begin(origin: Origin) -> None:
    """For the rest of this task, or until this thread begins another."""
    _current.set(origin)


def about(job_id: str) -> None:
    """The request turns out to be about this job."""
    origin = _current.get()
    if origin is not _NOWHERE:
        origin.job_id = job_id


def as_request_id(given: object) -> str:
    """As somebody has given it; empty where it is none: up to 128 printable ASCII characters without blanks."""
    return given if isinstance(given, str) and _REQUEST_ID.fullmatch(given) else ""


def _given(names: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in names.items() if value}
