"""`/v1/dead` on a real server: list, show, retry, drop, refuse; and who may ask."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis
from celery import Celery

from shared import keys, messages, scripts
from shared.types import State
from tests.api_stack import Api, Hands, serving, settings, until

ECHO = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL)


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, inline_bytes=100, dead_ttl_s=600)) as running:
        yield running


async def submit(api: Api, value: Any = 1, **body: Any) -> str:
    answer = await api.client.post("/v1/jobs", json={"model": "echo", "input": value} | body)
    assert answer.status_code == 202
    job_id: str = answer.json()["id"]
    return job_id


async def exhaust(hands: Hands, job_id: str) -> None:
    """Two processes that run it alone die, and the third finds out."""
    look = scripts.restore_expired(lease_ms=60_000, heartbeat_ms=60_000)
    await hands.call(look)  # workers look all the time; a first look would take what it finds for an outage
    for number in range(3):
        await hands.call(scripts.drain(hands.lists, [10] * len(hands.lists), process=f"gone-{number}"))
        call = scripts.claim([job_id], process=f"gone-{number}", worker=f"w{number}", max_attempts=2, solo=True)
        (verdict,) = await hands.call(call)
        if verdict.status == "run":
            await hands.client.zadd(keys.LEASES, {job_id: 1})
            assert await hands.call(look) == [job_id]
    assert verdict.state is State.FAILED
    await hands.call(scripts.ack([job_id], process="gone-2"))


async def push(hands: Hands, raw: bytes | str, *, reject: bool = False) -> str:
    """A message pushed by hand; its letter."""
    await hands.client.lpush(ECHO, raw)
    drained = await hands.call(scripts.drain([ECHO], [10], process="p"))
    assert len(drained.messages) == reject
    if reject:
        tag = orjson.loads(raw)["properties"]["delivery_tag"]
        assert await hands.call(scripts.bury(tag, "rejected"))
    ((number, _),) = await hands.client.xrevrange(keys.DEAD, count=1)
    letter: str = number.decode()
    return letter


async def letters(api: Api, **query: Any) -> list[dict[str, Any]]:
    answer = await api.client.get("/v1/dead", params=query)
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()["letters"]
    return found


# List and show -----------------------------------------------------------------------------------


async def test_an_exhausted_job_is_listed_and_shown(api: Api, hands: Hands) -> None:
    assert (await api.client.get("/v1/dead")).json() == {"letters": [], "next": None}
    job_id = await submit(api, {"a": 1}, labels={"tenant": "acme"}, priority="high")
    await exhaust(hands, job_id)
    (listed,) = await letters(api)
    told = {key: value for key, value in listed.items() if key not in ("id", "created_at", "message_bytes")}
    assert told == {
        "reason": "attempts_exhausted",
        "job_id": job_id,
        "model": "echo",
        "version": "1",
        "queue": "ml.echo.1",
        "attempts": 2,
        "crashes": 2,
        "worker": "w1",
        "input_bytes": 7,
        "labels": {"tenant": "acme"},
    }
    shown = (await api.client.get(f"/v1/dead/{listed['id']}")).json()
    assert listed.items() <= shown.items()
    assert shown["arguments"] == {"model": "echo", "version": "1", "input": {"a": 1}, "parameters": {}}
    assert (shown["payloads"], shown["obstacle"], shown["message_encoding"]) == ([], None, "utf-8")
    assert messages.unpack(shown["message"].encode())[1] == shown["arguments"]
    assert len(shown["message"]) == shown["message_bytes"]
    job = (await api.client.get(f"/v1/jobs/{job_id}")).json()
    assert (job["state"], job["error"]["code"], job["letter"]) == ("failed", "attempts_exhausted", listed["id"])
    assert listed["created_at"][:16] == job["finished_at"][:16]


async def test_payloads_are_told_not_shown(api: Api, hands: Hands, store: redis.Redis) -> None:
    job_id = await submit(api, "x" * 500)
    await exhaust(hands, job_id)
    (listed,) = await letters(api)
    shown = (await api.client.get(f"/v1/dead/{listed['id']}")).json()
    assert shown["payloads"] == [{"key": f"ml:in:{job_id}:0", "pointer": "", "bytes": 502}]
    assert (shown["arguments"]["input"], shown["input_bytes"]) == (None, 502)
    assert 590 <= store.ttl(f"ml:in:{job_id}:0") <= 600, "as long as the letter, not as the outcome"
    store.delete(f"ml:in:{job_id}:0")
    shown = (await api.client.get(f"/v1/dead/{listed['id']}")).json()
    assert shown["payloads"][0]["bytes"] is None
    assert "input is gone" in shown["obstacle"]


@pytest.mark.parametrize(
    ("raw", "encoding", "text"),
    [
        (b"\x80\x04\x95pickle", "base64", base64.b64encode(b"\x80\x04\x95pickle").decode()),
        ("naïve".encode(), "utf-8", "naïve"),
        (b"", "utf-8", ""),
    ],
)
async def test_what_is_unparsable_is_shown_as_it_is(
    api: Api, hands: Hands, raw: bytes, encoding: str, text: str
) -> None:
    letter = await push(hands, raw)
    shown = (await api.client.get(f"/v1/dead/{letter}")).json()
    assert (shown["reason"], shown["message"], shown["message_encoding"]) == ("unparsable", text, encoding)
    assert (shown["job_id"], shown["model"], shown["arguments"], shown["payloads"]) == (None, None, None, [])
    assert (shown["queue"], shown["message_bytes"], shown["input_bytes"]) == ("ml.echo.1", len(raw), None)
    assert shown["obstacle"] == "the message cannot be read"


async def test_pages_and_filters(api: Api, hands: Hands, store: redis.Redis) -> None:
    for number in range(7):
        store.xadd(keys.DEAD, {"reason": "rejected", "id": f"r{number}", "list": "l", "raw": "", "ref": "bert@2"})
        store.xadd(keys.DEAD, {"reason": "unparsable", "id": "", "list": "l", "raw": str(number)})
    whole = await letters(api)
    assert [letter["id"] for letter in whole] == [n.decode() for n, _ in store.xrevrange(keys.DEAD)]
    pages, after = [], None
    while True:
        answer = (await api.client.get("/v1/dead", params={"limit": 4} | ({"after": after} if after else {}))).json()
        pages.append(answer["letters"])
        after = answer["next"]
        if after is None:
            break
    assert [len(page) for page in pages] == [4, 4, 4, 2]
    assert [letter for page in pages for letter in page] == whole
    assert [letter["job_id"] for letter in await letters(api, reason="rejected")] == [f"r{n}" for n in range(6, -1, -1)]
    assert len(await letters(api, model="bert")) == len(await letters(api, model="bert@2")) == 7
    assert await letters(api, model="bert@1") == await letters(api, model="ber") == []
    assert await letters(api, model="bert", reason="unparsable") == []
    first = (await api.client.get("/v1/dead", params={"reason": "rejected", "limit": 3})).json()
    none = (await api.client.get("/v1/dead", params={"after": "0-0"})).json()
    assert none == {"letters": [], "next": None}
    rest = (await api.client.get("/v1/dead", params={"reason": "rejected", "after": first["next"]})).json()
    assert [letter["job_id"] for letter in first["letters"] + rest["letters"]] == [f"r{n}" for n in range(6, -1, -1)]
    assert rest["next"] is None


async def test_a_filter_that_lets_few_through_reads_a_bounded_number(api: Api, store: redis.Redis) -> None:
    store.xadd(keys.DEAD, {"reason": "rejected", "id": "oldest", "list": "l", "raw": ""})
    pipe = store.pipeline(transaction=False)
    for _ in range(1500):
        pipe.xadd(keys.DEAD, {"reason": "unparsable", "id": "", "list": "l", "raw": ""})
    pipe.execute()
    empty = (await api.client.get("/v1/dead?reason=rejected")).json()
    assert empty["letters"] == []
    rest = (await api.client.get("/v1/dead", params={"reason": "rejected", "after": empty["next"]})).json()
    assert ([letter["job_id"] for letter in rest["letters"]], rest["next"]) == (["oldest"], None)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "limit=-1", "limit=0005", "after=x", "after=1", "reasn=a"]
)
async def test_wrong_questions(api: Api, query: str) -> None:
    answer = await api.client.get(f"/v1/dead?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_as_many_as_the_limit_says(api: Api, store: redis.Redis) -> None:
    for limit, status in (("1000", 200), ("10000", 200), ("10001", 422), ("00001", 200), ("000001", 422)):
        answer = await api.client.post(f"/v1/dead/requeue?limit={limit}")
        assert answer.status_code == status, limit


async def test_a_mistyped_filter_requeues_nothing(api: Api, hands: Hands, store: redis.Redis) -> None:
    store.xadd(keys.DEAD, {"reason": "unparsable", "id": "", "list": "l", "raw": ""})
    answer = await api.client.post("/v1/dead/requeue?reasn=rejected")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/reasn")
    assert store.xlen(keys.DEAD) == 1
    store.delete(keys.DEAD)


@pytest.mark.parametrize("letter", ["1-1", "x", "99999999999999999999-0", "-", "+", "1"])
async def test_unknown_letters(api: Api, letter: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/retry")):
        answer = await api.client.request(method, f"/v1/dead/{letter}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "letter_not_found")
        assert answer.headers["content-type"] == "application/problem+json"


# Retry -------------------------------------------------------------------------------------------


async def test_retry(api: Api, hands: Hands) -> None:
    job_id = await submit(api, "x" * 500, labels={"a": "b"}, priority="low", parameters={"fail": ""}, deadline_s=1)
    await exhaust(hands, job_id)
    (listed,) = await letters(api)
    answer = await api.client.post(f"/v1/dead/{listed['id']}/retry")
    job = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/jobs/{job['id']}")
    assert job == (await api.client.get(answer.headers["location"])).json() | {"waiting_for": None}
    assert (job["state"], job["retried_from"], job["attempt"], job["labels"]) == ("queued", job_id, 0, {"a": "b"})
    assert job["deadline_at"][:10] > job["created_at"][:10], "the default: nobody waits with the old one any more"
    assert await letters(api) == []
    assert 'ml_jobs_accepted_total{model="echo",version="1"} 2.0' in (await api.client.get("/metrics")).text
    assert (await api.client.get(f"/v1/jobs/{job_id}")).json()["letter"] is None
    drained = await hands.call(scripts.drain(hands.lists, [10] * len(hands.lists), process="p"))
    ((list_name, raw),) = drained.messages
    assert list_name == keys.queue_list("ml.echo.1", keys.LOW)
    message, kwargs = messages.unpack(raw)
    assert message["headers"]["id"] == message["properties"]["delivery_tag"] == job["id"]
    assert kwargs == {"model": "echo", "version": "1", "input": None, "parameters": {"fail": ""}}
    claim = scripts.claim([job["id"]], process="p", worker="w", max_attempts=3)
    assert (await hands.call(claim))[0].status == "suspect", "alone from the first start"
    assert orjson.loads(await hands.client.get(keys.payload_key(job["id"], 0))) == "x" * 500
    assert await hands.client.exists(keys.payload_key(job_id, 0)) == 0
    record = await hands.client.hgetall(keys.JOB + job["id"])
    carried = {"owner": "anonymous", "timeout_ms": "60000", "ttl_ms": "3600000", "priority": "6", "payloads": "1"}
    assert carried.items() <= {k.decode(): v.decode() for k, v in record.items()}.items()


async def test_two_retries_at_once_make_one_job(api: Api, hands: Hands, store: redis.Redis) -> None:
    for _ in range(10):
        await exhaust(hands, await submit(api))
        (listed,) = await letters(api)
        answers = await asyncio.gather(*(api.client.post(f"/v1/dead/{listed['id']}/retry") for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [202, 404, 404, 404, 404]
        assert {answer.json().get("code") for answer in answers} == {None, "letter_not_found"}
        assert store.llen(ECHO) == 1
        await hands.call(scripts.drain([ECHO], [1], process="p"))


async def test_a_plain_producers_job_keeps_its_callbacks(api: Api, hands: Hands, redis_url: str) -> None:
    """As the worker adopts it: our headers, the producer's body and callbacks."""
    app = Celery("backend", broker=redis_url, set_as_current=False)
    link = app.signature("backend.after", args=(1,))
    app.send_task("ml.predict", kwargs={"model": "echo", "input": 5}, queue="ml", task_id="plain", link=link)
    app.close()
    raw = await hands.client.rpop("ml")
    plain = orjson.loads(raw)
    _, _, embed = orjson.loads(base64.b64decode(plain["body"]))
    kwargs = {"model": "echo", "version": "1", "input": 5, "parameters": {}}
    moved = messages.readdress(plain, "plain", queue="ml.echo.1", priority=3, kwargs=kwargs, embed=embed)
    fields: dict[str, str | int] = {"model": "echo", "version": "1", "owner": "celery"}
    adopted = {"list_name": ECHO, "raw": moved, "ref": "echo@1", "deadline_ms": 9000, "ttl_ms": 9000, "size": 1}
    adopted["etag"] = api.parts.registry.known.etag
    assert await hands.call(scripts.adopt("tag", "plain", fields=fields, **adopted)) == "adopted"
    await exhaust(hands, "plain")
    (listed,) = await letters(api)
    job = (await api.client.post(f"/v1/dead/{listed['id']}/retry")).json()
    assert (job["retried_from"], job["labels"]) == ("plain", {})
    (again,) = (await hands.call(scripts.drain([ECHO], [1], process="p"))).messages
    message = orjson.loads(again[1])
    assert orjson.loads(base64.b64decode(message["body"])) == [[], kwargs, embed]
    assert embed["callbacks"][0]["task"] == "backend.after"
    assert message["headers"]["id"] == job["id"]


def _ours(**headers: Any) -> bytes:
    raw = messages.build("j", queue="q", priority=3, model="echo", version="1", input=1)
    message = orjson.loads(raw)
    message["headers"] |= headers
    return orjson.dumps(message)


def _asking(**kwargs: Any) -> bytes:
    message = orjson.loads(_ours())
    message["body"] = base64.b64encode(orjson.dumps([[], kwargs, {}])).decode()
    return orjson.dumps(message)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"nonsense", "cannot be read"),
        (_ours(ml="1"), "version"),
        (_ours(ml=None), "never a job of this service"),
        (_asking(input=1), "model: Field required"),
        (_asking(model=["echo"], version="1", input=1), "model: Input should be a valid string"),
        (_asking(model="echo", version="1"), "input: Field required"),
        (_asking(model="gone", version="1", input=1), "no model 'gone' is configured"),
        (_asking(model="echo", version="9", input=1), "has no version '9'"),
        (_ours(ml_payloads=["/image"]), "input is gone"),
    ],
)
async def test_what_cannot_be_retried_says_why_and_stays(api: Api, hands: Hands, raw: bytes, why: str) -> None:
    letter = await push(hands, raw, reject=raw != b"nonsense")
    before = {key: await hands.client.dump(key) async for key in hands.client.scan_iter()}
    answer = await api.client.post(f"/v1/dead/{letter}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "cannot_retry")
    assert why in answer.json()["detail"]
    assert why in (await api.client.get(f"/v1/dead/{letter}")).json()["obstacle"]
    assert {key: await hands.client.dump(key) async for key in hands.client.scan_iter()} == before


async def test_a_job_whose_record_is_gone_can_be_retried(api: Api, hands: Hands) -> None:
    letter = await push(hands, _ours(), reject=True)
    (listed,) = await letters(api, model="echo@1")
    assert (listed["job_id"], listed["model"], listed["version"]) == ("j", "echo", "1")
    job = (await api.client.post(f"/v1/dead/{letter}/retry")).json()
    (taken,) = await hands.take()
    assert (taken.job_id, taken.kwargs["input"]) == (job["id"], 1)


# Drop --------------------------------------------------------------------------------------------


async def test_drop(api: Api, hands: Hands, store: redis.Redis) -> None:
    job_id = await submit(api, "x" * 500)
    await exhaust(hands, job_id)
    (listed,) = await letters(api)
    answer = await api.client.delete(f"/v1/dead/{listed['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert await letters(api) == []
    assert not store.exists(keys.payload_key(job_id, 0))
    job = (await api.client.get(f"/v1/jobs/{job_id}")).json()
    assert (job["error"]["code"], job["letter"]) == ("attempts_exhausted", None)
    assert (await api.client.delete(f"/v1/dead/{listed['id']}")).status_code == 404


async def test_old_letters_go_by_themselves(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    for number in (1, 2):
        store.xadd(keys.DEAD, {"reason": "unparsable", "id": "", "list": "l", "raw": ""}, id=f"{number}-0")
    async with serving(settings(redis_url, tmp_path)) as api:

        async def swept() -> bool:
            return await letters(api) == []

        await until(swept, "the sweep drops letters older than a week")


async def test_metrics_count_letters(api: Api, hands: Hands) -> None:
    assert "\nml_dead_letters 0.0\n" in (await api.client.get("/metrics")).text
    for _ in range(2):
        await push(hands, "nonsense")
    assert "\nml_dead_letters 2.0\n" in (await api.client.get("/metrics")).text


async def test_without_a_store(tmp_path: Path) -> None:
    async with serving(settings("redis://127.0.0.1:1/0", tmp_path)) as api:
        for method, path in (("GET", ""), ("GET", "/1-1"), ("DELETE", "/1-1"), ("POST", "/1-1/retry")):
            answer = await api.client.request(method, f"/v1/dead{path}")
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert "ml_dead_letters" not in (await api.client.get("/metrics")).text


async def test_no_input_is_logged(api: Api, hands: Hands, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "ml")
    for _ in range(2):
        await exhaust(hands, await submit(api, "secret"))
    retried, dropped = await letters(api)
    await api.client.get(f"/v1/dead/{retried['id']}")
    await api.client.post(f"/v1/dead/{retried['id']}/retry")
    await api.client.delete(f"/v1/dead/{dropped['id']}")
    told = [(record.getMessage(), record.__dict__["fields"]) for record in caplog.records if record.name == "ml.api"]
    assert [event for event, _ in told] == ["letter_retried", "letter_dropped"]
    assert [fields["letter"] for _, fields in told] == [retried["id"], dropped["id"]]
    assert "secret" not in str(told)
    assert base64.b64encode(b"secret").decode() not in str(told)


# Who may ask -------------------------------------------------------------------------------------

CALLS = [("GET", "/v1/dead"), ("GET", "/v1/dead/1-1"), ("POST", "/v1/dead/1-1/retry"), ("DELETE", "/v1/dead/1-1")]


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "10.1.2.3"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": ""},
        {"X-Forwarded-Proto": "https"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Host": "rebound.example"},
        {"Origin": "https://page.example"},
    ],
    ids=lambda headers: "-".join(next(iter(headers.items()))),
)
async def test_elsewhere_is_forbidden(api: Api, method: str, path: str, headers: dict[str, str]) -> None:
    answer = await api.client.request(method, path, headers=headers)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["instance"]) == (403, "forbidden", path)
    assert "only to this machine" in problem["detail"]


@pytest.mark.parametrize("headers", [{}, {"X-Forwarded-For": "10.1.2.3"}, {"Origin": "https://page.example"}])
async def test_the_rest_answers_everybody(api: Api, headers: dict[str, str]) -> None:
    for path in ("/v1/models", "/health", "/openapi.json"):
        assert (await api.client.get(path, headers=headers)).status_code == 200


async def test_another_loopback_address_is_this_machine_too(api: Api) -> None:
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        assert (await client.get(f"http://127.0.0.1:{api.port}/v1/dead")).status_code == 200
        assert (await client.get(f"http://localhost:{api.port}/v1/dead")).status_code == 200


async def test_a_trusting_server_does_not_make_a_stranger_local(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn, told to trust every proxy, takes the peer from X-Forwarded-For: anybody could write 127.0.0.1 there."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    async with serving(settings(redis_url, tmp_path)) as api:
        answer = await api.client.get("/v1/dead", headers={"X-Forwarded-For": "127.0.0.1"})
        assert answer.status_code == 403


async def test_over_an_ipv6_socket(redis_url: str, tmp_path: Path) -> None:
    """One that takes IPv4 too names its peers ::ffff:127.0.0.1."""
    with socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::ffff:127.0.0.1", 0))
        async with serving(settings(redis_url, tmp_path), sockets=[listener]) as api:
            assert (await api.client.get("/v1/dead")).status_code == 200


async def test_openapi_tells_the_letters(api: Api) -> None:
    paths = (await api.client.get("/openapi.json")).json()["paths"]
    page = paths["/v1/dead"]["get"]
    assert {parameter["name"] for parameter in page["parameters"]} == {"limit", "after", "reason", "model", "label"}
    assert page["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/LetterPage")
    assert set(paths["/v1/dead/{letter}"]) == {"get", "delete"}
    assert {"202", "403", "404", "409", "503"} <= set(paths["/v1/dead/{letter}/retry"]["post"]["responses"])
