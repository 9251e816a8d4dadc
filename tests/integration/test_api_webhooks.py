"""Webhooks end to end over real HTTP: a real API, a real receiver, and the hands of a worker."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
import uvicorn
from standardwebhooks import WebhookVerificationError

from shared import keys, scripts
from shared.addresses import Rules
from shared.api_keys import ApiKey, Scope, digest
from shared.errors import Fault
from shared.outbound import Outbound
from shared.types import Outcome, State
from tests.api_stack import Api, Hands, serving, settings, until
from tests.receiver import OK, Answer, Message, Receiver

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"
FAST = {"outbound_allow": "127.0.0.0/8", "webhook_schedule": "0.05,0.05,0.05", "webhook_timeout_s": 2}


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, **FAST)) as running:
        yield running


async def post(api: Api, webhook: Any, headers: dict[str, str] | None = None, **more: Any) -> str:
    body = {"model": "echo", "input": 1, "webhook": webhook, **more}
    answer = await api.client.post("/v1/jobs", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


async def run_one(api: Api, hands: Hands, webhook: Any, outcome: Outcome | None = None, **more: Any) -> str:
    job_id = await post(api, webhook, **more)
    (job,) = await hands.take()
    await hands.finish(job, outcome)
    return job_id


async def deliveries(api: Api, job_id: str) -> list[dict[str, Any]]:
    answer = await api.client.get(f"/v1/jobs/{job_id}/deliveries")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def settled(api: Api, job_id: str, state: str) -> dict[str, Any]:
    """The only delivery of the job, when it is in this state."""

    async def there() -> bool:
        found = await deliveries(api, job_id)
        return len(found) == 1 and found[0]["state"] == state

    await until(there, f"a delivery is {state}")
    return (await deliveries(api, job_id))[0]


async def secret_of(api: Api, headers: dict[str, str] | None = None) -> str:
    found: str = (await api.client.get("/v1/webhooks/secret", headers=headers)).json()["secret"]
    return found


async def test_a_job_that_succeeds_is_told_once_and_signed(api: Api, hands: Hands, store: redis.Redis) -> None:
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=b"}
    with Receiver() as receiver:
        job_id = await post(api, receiver.url, headers=trace, labels={"tenant": "acme"})
        (job,) = await hands.take()
        await hands.finish(job)
        one = await settled(api, job_id, "delivered")
        (message,) = receiver.got
        assert message.verified(await secret_of(api)) == message.said
        assert message.path == "/hook?token=canary"
        assert (message.said["type"], set(message.said)) == ("job.succeeded", {"type", "timestamp", "data"})
        job_json = (await api.client.get(f"/v1/jobs/{job_id}")).json()
        assert message.said["data"] == job_json
        assert message.said["timestamp"][:23] == job_json["finished_at"][:23]
        assert message.id == one["id"] == f"msg_{job_id}_succeeded"
        assert message.headers["content-type"] == "application/json"
        assert message.headers["user-agent"].startswith("ml-service/")
        assert (message.headers["traceparent"], message.headers["tracestate"]) == tuple(trace.values())
        assert (one["event"], one["url"], one["next_at"]) == ("succeeded", receiver.url, None)
        assert [(attempt["status"], attempt["error"]) for attempt in one["attempts"]] == [(200, None)]
        assert store.zcard(keys.WEBHOOKS) == 0


async def test_each_event_that_was_asked_for(api: Api, hands: Hands) -> None:
    with Receiver() as receiver:
        every = {"url": receiver.url, "events": ["running", "succeeded", "failed", "canceled"]}
        failed = Outcome(State.FAILED, code="invalid_input", message="no", faults=[Fault(pointer="/x", message="y")])
        await run_one(api, hands, every)
        await run_one(api, hands, every, failed)
        canceled = await post(api, every)
        await api.client.delete(f"/v1/jobs/{canceled}")
        await run_one(api, hands, {"url": receiver.url, "events": ["failed"]})
        await until(lambda: len(receiver.got) >= 5, "all are told")
        kinds = Counter(message.said["type"] for message in receiver.got)
        assert kinds == {"job.running": 2, "job.succeeded": 1, "job.failed": 1, "job.canceled": 1}
        for message in receiver.got:
            assert message.said["type"] == f"job.{message.said['data']['state']}", "as it was at the event"
        (wrong,) = receiver.of("job.failed")
        assert wrong.said["data"]["error"]["errors"][0]["pointer"] == "/x"
        assert all(message.said["data"]["output"] is None for message in receiver.of("job.running"))


async def test_a_deadline_that_passes_is_told_with_no_worker_alive(api: Api) -> None:
    with Receiver() as receiver:
        await post(api, receiver.url, deadline_s=0.05)
        await until(lambda: receiver.got, "it is told")
        assert receiver.got[0].said["data"]["error"]["code"] == "deadline_exceeded"


async def test_inference_takes_one_too_and_its_caller_may_leave(api: Api, hands: Hands) -> None:
    with Receiver() as receiver:
        body = {"model_type": "echo", "data": 5, "webhook": receiver.url}
        call = asyncio.create_task(api.client.post("/inference", json=body))
        (job,) = await hands.take()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await hands.finish(job)
        await until(lambda: receiver.got, "it is told")
        assert receiver.got[0].said["data"]["output"] == 5


async def test_files_carry_it_in_the_query_or_a_part(api: Api) -> None:
    with Receiver() as receiver:
        for webhook in (receiver.url, f'{{"url": "{receiver.url}", "events": ["canceled"]}}', f'"{receiver.url}"'):
            raw = await api.client.post(
                "/v1/jobs",
                params={"model": "cnn", "webhook": webhook},
                content=b"x",
                headers={"content-type": "image/png"},
            )
            form = {"model": "cnn", "webhook": webhook}
            parts = await api.client.post("/v1/jobs", files={"image": b"x"}, data=form)
            for answer in (raw, parts):
                assert answer.status_code == 202, answer.text
                await api.client.delete(f"/v1/jobs/{answer.json()['id']}")
        await until(lambda: len(receiver.got) == 6, "all are told")
        wrong = await api.client.post("/v1/jobs", files={"image": b"x"}, data={"model": "cnn", "webhook": "{"})
        assert [fault["pointer"] for fault in wrong.json()["errors"]] == ["/webhook"]


async def test_the_same_key_with_another_webhook_is_another_request(api: Api) -> None:
    body = {"model": "echo", "input": 1}
    headers = {"Idempotency-Key": "k"}
    first = await api.client.post("/v1/jobs", json=body | {"webhook": "https://a.example"}, headers=headers)
    again = await api.client.post("/v1/jobs", json=body | {"webhook": "https://a.example"}, headers=headers)
    other = await api.client.post("/v1/jobs", json=body | {"webhook": "https://b.example"}, headers=headers)
    assert (first.json()["id"], other.status_code) == (again.json()["id"], 422)


@pytest.mark.parametrize("failures", [1, 3])
async def test_what_fails_comes_again_with_the_same_bytes_and_id(
    api: Api, hands: Hands, store: redis.Redis, failures: int
) -> None:
    def answer(_: Message) -> Answer:
        return OK if len(receiver.got) > failures else (500, {}, b"")

    with Receiver(answer) as receiver:
        job_id = await run_one(api, hands, receiver.url)
        await until(lambda: receiver.got, "the first")
        store.delete(keys.JOB + job_id, keys.OUTCOME + job_id) if failures == 3 else None
        await until(lambda: len(receiver.got) > failures, "it comes again")
        one = await settled(api, job_id, "delivered")
        assert len({(message.id, message.body) for message in receiver.got}) == 1
        assert [attempt["status"] for attempt in one["attempts"]] == [500] * failures + [200]


async def test_a_receiver_that_was_down(api: Api, hands: Hands) -> None:
    with Receiver() as receiver:
        port, url = receiver.port, receiver.url
    job_id = await run_one(api, hands, url)
    failed = await settled(api, job_id, "failed")
    assert len(failed["attempts"]) == 4, "once, and by the schedule"
    assert {attempt["error"] for attempt in failed["attempts"]} == {"the call failed: ConnectError"}
    assert {attempt["status"] for attempt in failed["attempts"]} == {None}
    with Receiver(port=port) as receiver:
        again = await api.client.post(f"/v1/jobs/{job_id}/deliveries")
        assert (again.status_code, again.json()["data"][0]["id"]) == (202, failed["id"])
        done = await settled(api, job_id, "delivered")
        assert len(done["attempts"]) == 5
        assert len(receiver.got) == 1


async def test_a_receiver_that_has_gone_is_asked_no_more_until_a_redelivery_succeeds(api: Api, hands: Hands) -> None:
    status = [410]
    with Receiver(lambda _: (status[0], {}, b"")) as receiver:
        first = await run_one(api, hands, receiver.url)
        await settled(api, first, "disabled")
        second = await run_one(api, hands, receiver.url)
        left = await settled(api, second, "disabled")
        assert (left["attempts"], len(receiver.got)) == ([], 1)
        status[0] = 200
        assert (await api.client.post(f"/v1/jobs/{second}/deliveries")).status_code == 202
        await settled(api, second, "delivered")
        third = await run_one(api, hands, receiver.url)
        await settled(api, third, "delivered")
        assert [message.said["data"]["id"] for message in receiver.got] == [first, second, third]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(api: Api, hands: Hands, status: int) -> None:
    with Receiver() as inner, Receiver(lambda _: (status, {"Location": inner.url}, b"")) as receiver:
        job_id = await run_one(api, hands, receiver.url)
        failed = await settled(api, job_id, "failed")
        assert {(one["status"], one["error"]) for one in failed["attempts"]} == {(status, "a redirect is not followed")}
        assert inner.got == []


async def test_an_answer_too_long_is_a_success_all_the_same(api: Api, hands: Hands) -> None:
    with Receiver(lambda _: (200, {}, b"x" * 5_000_000)) as receiver:
        await settled(api, await run_one(api, hands, receiver.url), "delivered")
        assert len(receiver.got) == 1


async def test_retry_after_is_waited_for(redis_url: str, tmp_path: Path) -> None:
    def answer(_: Message) -> Answer:
        return OK if len(receiver.got) > 1 else (503, {"Retry-After": "3600"}, b"")

    async with serving(settings(redis_url, tmp_path, **FAST)) as api:
        hands = Hands.on(api.parts.settings)
        with Receiver(answer) as receiver:
            job_id = await run_one(api, hands, receiver.url)
            await until(lambda: receiver.got, "the first")
            one = await settled(api, job_id, "due")

            async def planned() -> bool:
                nonlocal one
                one = (await deliveries(api, job_id))[0]
                return bool(one["attempts"])

            await until(planned, "it is planned")
            due, (_, until_ms) = one["next_at"], (await hands.client.zrange(keys.WEBHOOKS, 0, 0, withscores=True))[0]
            at = (await hands.client.time())[0]
            assert due
            assert 3500 < until_ms / 1000 - at <= 3601
        await hands.client.aclose()


async def test_a_slow_receiver_holds_up_no_other(redis_url: str, tmp_path: Path) -> None:
    open_again = threading.Event()

    def slowly(_: Message) -> Answer:
        open_again.wait(20)
        return OK

    asked = settings(redis_url, tmp_path, **FAST | {"webhook_timeout_s": 30, "webhook_host_concurrency": 2})
    async with serving(asked) as api:
        hands = Hands.on(asked)
        with Receiver(slowly) as slow, Receiver() as quick:
            for _ in range(6):
                await post(api, slow.url)
            for job in await hands.take(6):
                await hands.finish(job)
            await until(lambda: len(slow.got) == 2, "it is asked")
            for _ in range(5):
                await run_one(api, hands, quick.url)
            await until(lambda: len(quick.got) == 5, "the other is told")
            assert len(slow.got) == 2, "no more than its own share"
            open_again.set()
            await until(lambda: len(slow.got) == 6, "it gets the rest")
        await hands.client.aclose()


async def test_a_large_output_is_left_out(redis_url: str, tmp_path: Path) -> None:
    asked = settings(redis_url, tmp_path, **FAST, webhook_output_bytes=1000)
    async with serving(asked) as api:
        hands = Hands.on(asked)
        with Receiver() as receiver:
            for size in (900, 300_000):
                job_id = await run_one(api, hands, receiver.url, Outcome(State.SUCCEEDED, output="x" * size))
                await settled(api, job_id, "delivered")
        small, large = (message.said["data"] for message in receiver.got)
        assert (small["output"], large["output"]) == ("x" * 900, None)
        assert large["output_url"] == f"/v1/jobs/{large['id']}/output"
        await hands.client.aclose()


async def test_addresses_are_refused_at_the_submit(redis_url: str, tmp_path: Path) -> None:
    async with serving(settings(redis_url, tmp_path)) as api:
        for url in (
            "http://127.0.0.1:9000/",
            "http://169.254.169.254/",
            "http://[::1]:9000/",
            "http://localhost:9000/",
        ):
            for path, field in (("/v1/jobs", "input"), ("/inference", "data")):
                for webhook, pointer in ((url, "/webhook"), ({"url": url}, "/webhook/url")):
                    answer = await api.client.post(
                        path, json={field: 1, "model" if field == "input" else "model_type": "echo", "webhook": webhook}
                    )
                    assert (answer.status_code, answer.json()["code"]) == (422, "address_refused")
                    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


async def test_a_name_that_leads_inside_is_refused_when_it_is_called(redis_url: str, tmp_path: Path) -> None:
    asked = settings(redis_url, tmp_path, webhook_schedule="")

    async def resolver(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with serving(asked) as api:
        hands = Hands.on(asked)
        assert api.parts.deliverer is not None
        api.parts.deliverer._make = lambda: Outbound(Rules(), resolver=resolver)
        with Receiver() as receiver:
            job_id = await run_one(api, hands, f"http://hook.example:{receiver.port}/")
            failed = await settled(api, job_id, "failed")
            assert failed["attempts"][0]["error"] == "hook.example is not a public address"
            assert receiver.got == []
        await hands.client.aclose()


async def test_a_secret_is_rotated_without_a_gap(api: Api, hands: Hands) -> None:
    with Receiver() as receiver:
        old = await secret_of(api)
        rotated = (await api.client.post("/v1/webhooks/secret/rotate", json={"grace_s": 3600})).json()
        assert rotated["secret"] != old
        assert rotated["previous_until"]
        await settled(api, await run_one(api, hands, receiver.url), "delivered")
        for secret in (old, rotated["secret"]):
            assert receiver.got[0].verified(secret)
        last = (await api.client.post("/v1/webhooks/secret/rotate", json={"grace_s": 0})).json()
        assert last["previous_until"] is None
        await settled(api, await run_one(api, hands, receiver.url), "delivered")
        assert receiver.got[1].verified(last["secret"])
        for secret in (old, rotated["secret"]):
            with pytest.raises(WebhookVerificationError):
                receiver.got[1].verified(secret)
        assert (await api.client.post("/v1/webhooks/secret/rotate")).json()["previous_until"]
        for wrong in ({"grace_s": -1}, {"grace_s": "x"}, {"grace": 1}, []):
            answer = await api.client.post("/v1/webhooks/secret/rotate", json=wrong)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_each_key_has_a_secret_and_deliveries_of_its_own(
    redis_url: str, tmp_path: Path, store: redis.Redis
) -> None:
    for name, scopes in (
        ("a", {Scope.SUBMIT, Scope.READ}),
        ("b", {Scope.SUBMIT, Scope.READ}),
        ("reader", {Scope.READ}),
    ):
        store.hset(keys.KEYS, digest(name), ApiKey(name=name, scopes=frozenset(scopes)).model_dump_json())
    asked = settings(redis_url, tmp_path, **FAST, auth="on")
    a, b, reader = ({"X-API-Key": name} for name in ("a", "b", "reader"))
    async with serving(asked) as api:
        hands = Hands.on(asked)
        assert (await api.client.get("/v1/webhooks/secret")).status_code == 401
        secrets = {await secret_of(api, header) for header in (a, b, reader, a)}
        assert len(secrets) == 3
        assert (await api.client.post("/v1/webhooks/secret/rotate", headers=reader)).status_code == 403
        with Receiver() as receiver:
            job_id = await post(api, receiver.url, headers=a)
            (job,) = await hands.take()
            await hands.finish(job)
            await until(lambda: receiver.got, "it is told")
            assert receiver.got[0].verified(await secret_of(api, a))
            with pytest.raises(WebhookVerificationError):
                receiver.got[0].verified(await secret_of(api, b))
        path = f"/v1/jobs/{job_id}/deliveries"
        assert (await api.client.get(path, headers=a)).status_code == 200
        for call in (api.client.get, api.client.post):
            answer = await call(path, headers=b)
            assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
        await hands.client.aclose()


async def test_calls_for_what_is_not_there(api: Api, hands: Hands) -> None:
    for kind in ("jobs", "batches"):
        for call in (api.client.get, api.client.post):
            assert (await call(f"/v1/{kind}/none/deliveries")).status_code == 404
    without = (await api.client.post("/v1/jobs", json={"model": "echo", "input": 1})).json()["id"]
    assert await deliveries(api, without) == []
    answer = await api.client.post(f"/v1/jobs/{without}/deliveries")
    assert (answer.status_code, answer.json()["code"]) == (409, "cannot_redeliver")
    answer = await api.client.post(f"/v1/jobs/{without}/deliveries?event=ended")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_a_redelivery_of_what_has_expired_says_so(api: Api, hands: Hands, store: redis.Redis) -> None:
    with Receiver() as receiver:
        job_id = await run_one(api, hands, receiver.url)
        await settled(api, job_id, "delivered")
        store.delete(keys.JOB + job_id, keys.OUTCOME + job_id)
        answer = await api.client.post(f"/v1/jobs/{job_id}/deliveries")
        assert (answer.status_code, "has expired" in answer.json()["detail"]) == (409, True)
        assert (await deliveries(api, job_id))[0]["state"] == "delivered", "the log outlives the job for a while"


async def test_a_job_with_a_short_life_is_told_by_who_comes_late(
    redis_url: str, tmp_path: Path, store: redis.Redis
) -> None:
    off = settings(redis_url, tmp_path, **FAST, webhook_delivery="off")
    with Receiver() as receiver:
        async with serving(off) as api:
            assert api.parts.deliverer is None
            hands = Hands.on(off)
            job_id = await run_one(api, hands, receiver.url, result_ttl_s=1)
            await until(
                lambda: (store.time()[0] * 1000 - int(store.hget(keys.JOB + job_id, "finished_at") or 0)) > 1500,
                "its life is over",
            )
            await hands.client.aclose()
        assert receiver.got == []
        async with serving(settings(redis_url, tmp_path, **FAST)) as api:
            await until(lambda: receiver.got, "it is told")
            assert receiver.got[0].said["data"]["output"] == 1
            await until(lambda: not store.exists(keys.JOB + job_id, keys.OUTCOME + job_id), "and then it goes")


async def test_a_retry_of_a_dead_letter_tells_the_same_receiver(api: Api, hands: Hands) -> None:
    with Receiver() as receiver:
        first = await post(api, receiver.url)
        await hands.take()
        await hands.call(scripts.bury(first, "rejected"))
        await until(lambda: receiver.of("job.failed"), "it is told")
        (letter,) = (await api.client.get("/v1/dead")).json()["letters"]
        second = (await api.client.post(f"/v1/dead/{letter['id']}/retry")).json()["id"]
        (job,) = await hands.take()
        await hands.finish(job)
        await until(lambda: receiver.of("job.succeeded"), "it is told")
        (told,) = receiver.of("job.succeeded")
        assert (told.said["data"]["id"], told.said["data"]["retried_from"]) == (second, first)


async def test_what_is_delivered_is_counted(api: Api, hands: Hands) -> None:
    answers = iter([500, 200, 410])
    with Receiver(lambda _: (next(answers), {}, b"")) as receiver:
        await settled(api, await run_one(api, hands, receiver.url), "delivered")
        await settled(api, await run_one(api, hands, receiver.url), "disabled")
    told = (await api.client.get("/metrics")).text
    for outcome, count in (("delivered", 1), ("retry", 1), ("disabled", 1), ("failed", 0)):
        assert f'ml_webhook_attempts_total{{outcome="{outcome}"}} {count}.0' in told
    assert "ml_webhooks_waiting 0.0" in told
    assert "ml_webhooks_due 0.0" in told


async def test_many_are_each_told_once(api: Api, hands: Hands) -> None:
    with Receiver() as receiver:
        made = await asyncio.gather(*(post(api, receiver.url) for _ in range(60)))
        await hands.finish_all(await hands.take(60))
        await until(lambda: len(receiver.got) >= 60, "all are told")
        assert Counter(message.said["data"]["id"] for message in receiver.got) == dict.fromkeys(made, 1)


async def test_two_processes_share_the_work(redis_url: str, tmp_path: Path) -> None:
    asked = settings(redis_url, tmp_path, **FAST)
    async with serving(asked) as one, serving(asked) as other:
        hands = Hands.on(asked)
        with Receiver() as receiver:
            made = await asyncio.gather(*(post(api, receiver.url) for api in (one, other) for _ in range(40)))
            await hands.finish_all(await hands.take(80))
            await until(lambda: len(receiver.got) >= 80, "all are told")
            assert Counter(message.said["data"]["id"] for message in receiver.got) == dict.fromkeys(made, 1)
        await hands.client.aclose()


async def test_the_docs_receiver_takes_it(
    api: Api, hands: Hands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    monkeypatch.setenv("ML_WEBHOOK_SECRET", await secret_of(api))
    names: dict[str, Any] = {"__name__": "hooks"}
    exec(compile(source, "docs/webhooks.md", "exec"), names)  # noqa: S102 - our own page
    server = uvicorn.Server(uvicorn.Config(names["app"], port=0, log_config=None, lifespan="off"))
    serving_it = asyncio.create_task(server._serve())
    await until(lambda: server.started, "the receiver has started")
    port = server.servers[0].sockets[0].getsockname()[1]
    job_id = await run_one(api, hands, f"http://127.0.0.1:{port}/hooks/ml")
    one = await settled(api, job_id, "delivered")
    assert [attempt["status"] for attempt in one["attempts"]] == [204]
    await api.client.post(f"/v1/jobs/{job_id}/deliveries")
    await until(lambda: len(names["handled"]) == 1, "it is handled")
    forged = await api.client.post(f"http://127.0.0.1:{port}/hooks/ml", json={}, headers={"webhook-id": "x"})
    assert forged.status_code == 401
    server.should_exit = True
    await serving_it
    assert capsys.readouterr().out.count(f"job.succeeded {job_id} 1") == 1
