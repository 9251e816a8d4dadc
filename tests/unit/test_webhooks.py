"""Webhooks without a server: what is asked for, what an answer means, how it is signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson
import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook

from api.deliver.judge import judge_answer, judge_failure
from api.deliver.secrets import sign
from api.schemas import JobRequest
from shared.addresses import Rules
from shared.errors import AddressRefused
from shared.settings import Settings
from shared.webhooks import BatchWebhook, JobWebhook

MINE = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
OTHER = "whsec_HxwdHh8AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRo="
SCHEDULE = [5.0, 60.0]


def test_the_vector_of_the_standard() -> None:
    at = datetime.fromtimestamp(1767225600, UTC)
    signed = sign([MINE], "msg_01", at, b'{"id":"p1","status":"succeeded"}')
    assert signed == "v1,7rg70WQqerJHNzDkHQf9VO3QP4rCt8tI6c/0GCz6GKk="


def test_both_secrets_verify_while_one_is_rotated() -> None:
    at, body = datetime.now(UTC), '{"a": "\u00e4"}'.encode()
    headers = {"webhook-id": "m", "webhook-timestamp": str(int(at.timestamp()))}
    headers["webhook-signature"] = sign([OTHER, MINE], "m", at, body)
    assert headers["webhook-signature"].count("v1,") == 2
    for secret in (MINE, OTHER):
        assert Webhook(secret).verify(body, headers) == {"a": "\u00e4"}


@pytest.mark.parametrize(
    ("status", "came"),
    [
        (200, "delivered"),
        (204, "delivered"),
        (299, "delivered"),
        (301, "retry"),
        (308, "retry"),
        (400, "retry"),
        (404, "retry"),
        (410, "disabled"),
        (429, "retry"),
        (500, "retry"),
        (503, "retry"),
    ],
)
def test_what_a_status_means(status: int, came: str) -> None:
    assert judge_answer(status, {}, tries=0, schedule=SCHEDULE).came == came
    last = judge_answer(status, {}, tries=2, schedule=SCHEDULE).came
    assert last == ("failed" if came == "retry" else came)


@pytest.mark.parametrize(("chance", "wait_s"), [(0.0, 48.0), (0.5, 60.0), (1.0, 72.0)])
def test_jitter_is_a_fifth(chance: float, wait_s: float) -> None:
    found = judge_failure("no answer", tries=1, schedule=SCHEDULE, chance=lambda: chance)
    assert (found.came, found.error, found.wait_s) == ("retry", "no answer", pytest.approx(wait_s))
    assert judge_failure("x", tries=2, schedule=SCHEDULE).came == "failed"
    assert judge_failure("x", tries=0, schedule=[]).came == "failed"


def _wait(status: int, given: str) -> float:
    return judge_answer(status, {"retry-after": given}, tries=0, schedule=SCHEDULE, chance=lambda: 0.5).wait_s


def test_retry_after_is_honoured_but_never_sooner_than_the_schedule() -> None:
    assert (_wait(429, "100"), _wait(503, "100"), _wait(500, "100")) == (100.0, 100.0, 5.0)
    assert (_wait(429, "1"), _wait(429, "-1"), _wait(429, "soon"), _wait(429, "\u0663")) == (5.0, 5.0, 5.0, 5.0)
    assert _wait(429, "9" * 30) == 86_400
    in_a_minute = datetime.now(UTC) + timedelta(seconds=60)
    assert 57 < _wait(503, format_datetime(in_a_minute, usegmt=True)) <= 60
    assert _wait(503, "Mon, 01 Jan 2001 00:00:00 GMT") == 5.0


def test_a_url_alone_has_the_default_events() -> None:
    asked = JobRequest.model_validate({"model": "m", "input": 1, "webhook": "https://a.example/x?y"})
    assert asked.webhook is not None
    assert orjson.loads(asked.webhook.record(Rules())) == {
        "url": "https://a.example/x?y",
        "host": "a.example",
        "events": ["succeeded", "failed", "canceled"],
    }
    some = JobWebhook.model_validate({"url": "http://a.example:8080", "events": ["running", "running"]})
    assert orjson.loads(some.record(Rules())) == {
        "url": "http://a.example:8080",
        "host": "a.example:8080",
        "events": ["running"],
    }
    assert BatchWebhook.model_validate("https://a.example").events == ["completed", "canceled"]


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (5, ("webhook",)),
        (["https://a.example"], ("webhook",)),
        ({}, ("webhook", "url")),
        ({"url": 5}, ("webhook", "url")),
        ({"url": "https://a.example", "events": []}, ("webhook", "events")),
        ({"url": "https://a.example", "events": ["queued"]}, ("webhook", "events", 0)),
        ({"url": "https://a.example", "secret": "x"}, ("webhook", "secret")),
    ],
)
def test_what_is_no_webhook(wrong: object, place: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as raised:
        JobRequest.model_validate({"model": "m", "input": 1, "webhook": wrong})
    assert [error["loc"] for error in raised.value.errors()] == [place]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://10.1.2.3:8080/",
        "http://[::1]/",
        "http://169.254.169.254/latest",
        "http://localhost/",
        "http://a.localhost:9000",
        "ftp://a.example/",
        "https://u:p@a.example/",
        "http://a.example:25/",
        "no url",
        "https://a.example/" + "x" * 2048,
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    for asked, pointer in ((url, "/webhook"), ({"url": url}, "/webhook/url")):
        with pytest.raises(AddressRefused) as raised:
            JobWebhook.model_validate(asked).record(Rules())
        assert [(fault.pointer, fault.code) for fault in raised.value.faults] == [(pointer, "address_refused")]


def test_the_own_network_may_be_allowed() -> None:
    rules = Rules.parse("hooks.corp,127.0.0.0/8")
    for url in ("http://127.0.0.1:9000/", "http://localhost:9000/", "http://hooks.corp/"):
        assert orjson.loads(JobWebhook.model_validate(url).record(rules))["url"] == url


@pytest.mark.parametrize("wrong", ["x", "5,,-1", "5;6", "1e9", "nan", "inf", "700000"])
def test_a_wrong_schedule_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="webhook_schedule"):
        Settings(webhook_schedule=wrong)


def test_the_default_schedule_takes_about_a_day() -> None:
    delays = Settings().webhook_delays()
    assert 20 * 3600 < sum(delays) < 26 * 3600
    assert delays == sorted(delays)
    assert Settings(webhook_schedule="").webhook_delays() == []
