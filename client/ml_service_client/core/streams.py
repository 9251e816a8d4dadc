"""Answers that come bit by bit, over as many connections as it takes: a job's events, a batch's results."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Generic, TypeVar

import httpx

from ml_service_client.core.answers import error_of, id_of
from ml_service_client.core.retries import Policy, retry_after_s
from ml_service_client.core.steps import Request
from ml_service_client.records import Line
from ml_service_client.types import Event, Job

T = TypeVar("T")

_SILENCE_S = 45.0  # the service says something every 15 s
_LAST = frozenset({"succeeded", "failed", "canceled"})


class Stream(Generic[T]):
    """What a driver does with it: send `request`, hand the answer to `answered` and its bytes to `read`, until `done`.
    `ended` and `lost` tell after how many seconds to go on with a new connection, or raise."""

    silence_s = _SILENCE_S

    def __init__(self, policy: Policy) -> None:
        self.done = False
        self._policy = policy
        self._attempt = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    @property
    def request(self) -> Request:
        """For the next connection: it goes on where the last one stopped."""
        raise NotImplementedError

    def _line(self, line: str) -> Iterator[T]:
        raise NotImplementedError

    def answered(self, response: httpx.Response) -> float | None:
        """None: read on. Else seconds until the next try. Raises MLServiceError. An answer that is no success must have
        been read."""
        self._decoder.reset()
        self._rest = ""
        if response.status_code == 204:  # nothing more will come
            self.done = True
        if response.is_success:
            return None
        delay = self._policy.after_answer(self.request, response, self._attempt)
        if delay is None:
            raise error_of(response, retry_after_s(response))
        self._attempt += 1
        return delay

    def read(self, chunk: bytes) -> Iterator[T]:
        """What this completes."""
        self._attempt = 0
        self._rest += self._decoder.decode(chunk)
        # A CR at the very end may be half of a CR LF: it stays in the rest.
        *lines, self._rest = self._rest.replace("\r\n", "\n").split("\n")
        for line in lines:
            yield from self._line(line)
            if self.done:
                return

    def ended(self) -> float:
        """The connection was closed in good order."""
        return self.lost(httpx.RemoteProtocolError("the stream ended too early"))

    def lost(self, error: httpx.TransportError) -> float:
        """The connection broke. Raises the error when there were too many with nothing between."""
        delay = self._policy.after_error(self.request, error, self._attempt)
        if delay is None:
            raise error
        self._attempt += 1
        return delay


class Events(Stream[Event]):
    """Server-sent events of a job, to its end."""

    def __init__(self, job: object, policy: Policy) -> None:
        super().__init__(policy)
        self._path = f"/v1/jobs/{id_of(job)}/events"
        self._last_id: str | None = None
        self._clear()

    def _clear(self) -> None:
        self._name, self._id, self._data = "message", "", list[str]()

    @property
    def request(self) -> Request:
        """With the id of the last event."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._last_id is not None:
            headers["Last-Event-ID"] = self._last_id
        return Request("GET", self._path, headers=headers)

    def answered(self, response: httpx.Response) -> float | None:
        """As of any stream; half an event of the last connection is none."""
        self._clear()
        return super().answered(response)

    def _line(self, line: str) -> Iterator[Event]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "id":
            self._id = value
        elif name == "data":
            self._data.append(value)
        elif not line and self._data:
            event = Event(int(self._id) if self._id.isdigit() else None, self._name, Job.of(_json(self._data)))
            self._last_id = self._id or self._last_id
            self.done = self._name in _LAST
            self._clear()
            yield event


def _json(data: list[str]) -> dict[str, object]:
    found = json.loads("\n".join(data))
    if not isinstance(found, dict):
        raise ValueError("an event's data is no job")
    return found


class Lines(Stream[Line]):
    """Results of a batch, in the order of its inputs, from `start`. With `follow` to the last of `total`; without, as
    many as there are."""

    def __init__(self, batch: object, policy: Policy, *, start: int, total: int, follow: bool) -> None:
        super().__init__(policy)
        self._path = f"/v1/batches/{id_of(batch)}/results"
        self._next, self._total, self._follow = start, total, follow
        self.done = start >= total

    @property
    def request(self) -> Request:
        """From the first line that has not come yet."""
        params = {"start": str(self._next), "follow": "true" if self._follow else "false"}
        return Request("GET", self._path, params=params, headers={"Accept": "application/x-ndjson"})

    def _line(self, line: str) -> Iterator[Line]:
        if not line:
            return
        found = Line.of(json.loads(line))
        self._next = found.index + 1
        self.done = self._next >= self._total
        yield found

    def ended(self) -> float:
        """Without `follow`, the last line there is has come."""
        if self._follow:
            return super().ended()
        self.done = True
        return 0.0
