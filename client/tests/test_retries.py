"""When a request goes again, and after how long: the core alone, without a socket."""

from __future__ import annotations

import email.utils
import json
import time
from typing import Any

import httpx
import pytest

from ml_service_client import MLServiceError, QueueFull
from ml_service_client.core.retries import Policy, exchange, retry_after_s
from ml_service_client.core.steps import Request, Sleep

GET = Request("GET", "/v1/jobs/1")
POST = Request("POST", "/v1/jobs", headers={"Idempotency-Key": "k"})
BARE = Request("POST", "/v1/jobs/1/deliveries")
LOST = httpx.ReadError("lost")
REFUSED = httpx.ConnectError("refused")


def answer(status: int, code: str = "", *, job: str | None = None, **headers: str) -> httpx.Response:
    body = {"code": code, "detail": "said", **({"job": job} if job else {})}
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=body, headers=told, request=httpx.Request("GET", "http://h/"))


def drive(
    request: Request, *outcomes: httpx.Response | httpx.TransportError, retries: int = 3
) -> tuple[Any, list[float]]:
    """The result (or the exception) of an exchange that meets these, and how long it slept between."""
    call, slept, left = exchange(request, Policy(retries, dice=lambda: 1.0)), [], list(outcomes)
    try:
        step = next(call)
        while True:
            if isinstance(step, Sleep):
                slept.append(step.seconds)
                step = call.send(None)
                continue
            assert step == request, "the very same request goes again"
            outcome = left.pop(0)
            step = call.send(outcome) if isinstance(outcome, httpx.Response) else call.throw(outcome)
    except StopIteration as end:
        assert not left
        return end.value, slept
    except (MLServiceError, httpx.TransportError) as error:
        assert not left
        return error, slept


OK = answer(200)


@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST with a key"])
@pytest.mark.parametrize(
    "outcome",
    [
        LOST,
        REFUSED,
        httpx.ReadTimeout(""),
        httpx.RemoteProtocolError(""),
        answer(429, "rate_limited"),
        answer(503, "queue_full"),
        answer(500, "internal_error"),
        answer(502),
        answer(504),
        answer(408, "request_timeout"),
    ],
    ids=str,
)
def test_goes_again_where_that_is_safe(request_: Request, outcome: Any) -> None:
    result, slept = drive(request_, outcome, OK)
    assert result is OK
    assert len(slept) == 1


@pytest.mark.parametrize(
    "outcome",
    [
        answer(504, "wait_ended", job="/v1/jobs/1"),
        answer(503, "model_unavailable", job="/v1/jobs/1"),
        answer(504, "timeout", x_should_retry="false"),
        answer(503, "queue_full", Retry_After="61"),
        answer(422, "invalid_input"),
        answer(409, "canceled"),
        answer(401, "unauthorized"),
        answer(404, "job_not_found"),
        answer(302),
    ],
    ids=str,
)
def test_does_not_go_again_in_vain(outcome: httpx.Response) -> None:
    result, slept = drive(POST, outcome)
    assert isinstance(result, MLServiceError)
    assert result.response is outcome
    assert slept == []


def test_a_post_without_a_key_goes_again_only_where_nothing_was_accepted() -> None:
    assert drive(BARE, REFUSED, OK)[0] is OK
    assert drive(BARE, answer(429, "rate_limited", Retry_After="1"), OK)[0] is OK
    assert drive(BARE, LOST)[0] is LOST
    assert isinstance(drive(BARE, answer(503, "store_unavailable"))[0], MLServiceError)


def test_backs_off_exponentially_and_gives_up() -> None:
    result, slept = drive(GET, LOST, LOST, LOST, LOST)
    assert result is LOST
    assert slept == [0.5, 1.0, 2.0]
    assert drive(GET, LOST, retries=0) == (LOST, [])


def test_jitter_is_between_half_and_all_of_it() -> None:
    low, high = (Policy(3, dice=lambda side=side: side) for side in (0.0, 1.0))
    assert [low.backoff_s(n) for n in range(6)] == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
    assert [high.backoff_s(n) for n in range(6)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_never_earlier_than_asked_and_not_all_at_once() -> None:
    assert drive(GET, answer(503, "queue_full", Retry_After="20"), OK) == (OK, [22.0])
    assert Policy(3, dice=lambda: 0.0).backoff_s(0, 20) == 20
    error, _ = drive(GET, answer(503, "queue_full", Retry_After="7"), retries=0)
    assert isinstance(error, QueueFull)
    assert error.retry_after_s == 7


def test_retry_after_in_every_form() -> None:
    assert retry_after_s(answer(429, Retry_After="1.5")) == 1.5
    assert retry_after_s(answer(503)) is None
    assert retry_after_s(answer(503, Retry_After="soon")) is None
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 28 < (retry_after_s(answer(503, Retry_After=date)) or 0) <= 30
    assert retry_after_s(answer(429, RateLimit='"requests";r=0;t=7')) == 7
    assert retry_after_s(answer(200, RateLimit='"requests";r=5;t=7')) is None


def test_x_should_retry_true_does_not_make_it_safe() -> None:
    assert drive(POST, answer(500, x_should_retry="true"), OK)[0] is OK
    assert isinstance(drive(BARE, answer(500, x_should_retry="true"))[0], MLServiceError)


def test_an_answer_that_is_no_problem_document() -> None:
    page = httpx.Response(502, text="<html>", request=httpx.Request("GET", "http://h/x"))
    error, _ = drive(GET, page, retries=0)
    assert type(error) is MLServiceError
    assert (error.code, error.status, error.job) == ("http_502", 502, None)
    openai = httpx.Response(
        404,
        content=json.dumps({"error": {"message": "none", "code": "model_not_found"}}),
        request=httpx.Request("GET", "http://h/x"),
    )
    assert drive(GET, openai)[0].code == "model_not_found"
