"""What goes wrong, as exceptions: one root, one class for each `code` of the service (those are in `problems`).

All are `httpx.HTTPStatusError`, so that code written for bare httpx and `raise_for_status()` goes on working. Where no
answer came at all, httpx's own `httpx.TransportError` (timeouts, refused connections) is raised, after the retries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in an input: where (a JSON pointer, RFC 6901, into the request's body), what kind, in words."""

    pointer: str
    code: str
    message: str


class MLServiceError(httpx.HTTPStatusError):
    """The service refused a call, or a job did not succeed.

    `code` is what to act on, `detail` says it in words, `errors` where in the input. `job` is the id of the job that
    the answer is about, if there is one; `retry_after_s` how long the service asks to wait; `request_id` what to look
    for in its logs. `response` and `request` are httpx's; of a job that ended badly they are what
    `GET /v1/jobs/{id}/output` answers.
    """

    code: str = "unknown"
    default_status: ClassVar[int] = 500

    def __init__(
        self,
        detail: str,
        *,
        request: httpx.Request,
        response: httpx.Response,
        code: str | None = None,
        errors: tuple[Fault, ...] = (),
        job: str | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        if code is not None:
            self.code = code
        self.detail, self.errors, self.job = detail, errors, job
        self.retry_after_s, self.request_id = retry_after_s, request_id
        super().__init__(self._message(response.status_code), request=request, response=response)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status_code

    def _message(self, status: int) -> str:
        where = "".join(f"; {fault.pointer or '/'}: {fault.message}" for fault in self.errors[:3])
        detail = self.detail.rstrip(".") if where else self.detail
        about = [f"{status}"] + ([f"job {self.job}"] if self.job else [])
        if self.request_id:
            about.append(f"request {self.request_id}")
        return f"{self.code}: {detail}{where} ({', '.join(about)})"

    def __reduce__(self) -> tuple[Callable[..., MLServiceError], tuple[Any, ...]]:
        """Errors go between processes, into a Celery backend for instance: without the API key in the request."""
        request = httpx.Request(self.request.method, self.request.url)
        response = httpx.Response(self.status, headers=self.response.headers.raw, content=_content(self.response))
        about = {name: getattr(self, name) for name in ("code", "errors", "job", "retry_after_s", "request_id")}
        return _again, (type(self), self.detail, request, response, about)


class JobError(MLServiceError):
    """A job did not succeed: it failed, or was canceled."""


class Refused(MLServiceError):
    """The service did not do what was asked; nothing was accepted, unless `job` tells of one."""


class UnexpectedAnswer(MLServiceError):
    """What answers there is no ml-service, or something before it changed the answer."""

    code = "unexpected_answer"


class WebhookError(ValueError):
    """This is no webhook of yours: a header is missing, the signature is wrong, or it is too old."""


def _again(
    kind: type[MLServiceError], detail: str, request: httpx.Request, response: httpx.Response, about: dict[str, Any]
) -> MLServiceError:
    response.request = request
    return kind(detail, request=request, response=response, **about)


def _content(response: httpx.Response) -> bytes:
    try:
        return response.content
    except httpx.ResponseNotRead:
        return b""
