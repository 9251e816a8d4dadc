"""Both clients against a real service."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from typing import Any

import httpx
import pytest
from conftest import Make, wait_until
from misbehaving import Proxy, answer

import ml_service_client
from ml_service_client import (
    DeadlineExceeded,
    InvalidInput,
    Job,
    MLServiceClient,
    MLServiceError,
    PredictError,
    SyncMLServiceClient,
    UnexpectedAnswer,
    UnknownJob,
    UnknownModel,
    WaitEnded,
)

SLOW = {"sleep_ms": 1500}


def test_inference(client: Any) -> None:
    found = client.inference("echo", {"text": "hi"}, labels={"tenant": "acme"})
    assert found["output"] == found.output == {"text": "hi"}
    assert (found.model, found.version, found.timing.batch_size) == ("echo", "1", 1)
    assert client.get(found.job_id).labels == {"tenant": "acme"}


def test_submit_wait_get(client: Any) -> None:
    job = client.submit("echo", {"n": 1}, priority="high", deadline_s=60)
    assert (job.state, job.model, job.done) == ("queued", "echo", False)
    assert job.created_at is not None
    ended = client.wait(job)
    assert ended.result() == {"n": 1}
    assert client.get(job).state == "succeeded"
    assert client.get(f"/v1/jobs/{job.id}").timing.worker == ended.timing.worker


def test_submit_and_wait_in_one_call(client: Any) -> None:
    assert client.submit("echo", 1, wait_s=20).result() == 1


def test_wait_ends(client: Any) -> None:
    job = client.submit("echo", 1, parameters=SLOW)
    with pytest.raises(WaitEnded) as caught:
        client.wait(job, timeout_s=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.job == job.id
    assert client.wait(caught.value.job).result() == 1


def test_cancel(client: Any) -> None:
    running = client.submit("narrow", 1, parameters=SLOW)
    queued = client.submit("narrow", 2)
    assert client.cancel(queued).state == "canceled"
    with pytest.raises(ml_service_client.Canceled):
        client.get(queued).result()
    client.cancel(running)
    assert client.wait(running).state == "canceled"


def test_a_job_that_fails(client: Any) -> None:
    failed = client.wait(client.submit("echo", 1, parameters={"fail": "told to"}))
    assert (failed.state, failed.error.code) == ("failed", "predict_error")
    with pytest.raises(PredictError, match="told to"):
        failed.result()
    with pytest.raises(PredictError) as caught:
        client.inference("echo", 1, parameters={"fail": "told to"})
    assert caught.value.status == 500
    assert client.get(caught.value.job).state == "failed"


def test_what_is_refused(client: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.inference("bert", {"txt": "x"})
    assert {fault.pointer for fault in caught.value.errors} == {"/data/text", "/data/txt"}
    assert caught.value.request_id
    with pytest.raises(UnknownModel):
        client.submit("nobody", 1)
    with pytest.raises(UnknownModel):
        client.model("nobody")
    with pytest.raises(UnknownJob):
        client.get("c5f3edde-7d1b-4787-bb57-854dba8915dd")
    with pytest.raises(httpx.HTTPStatusError) as bare:  # what the callers of a bare httpx client catch
        client.inference("nobody", {})
    assert bare.value.response.status_code == 404
    with pytest.raises(TypeError, match="such option"):
        client.submit("echo", 1, nonsense=1)


def test_deadline(client: Any) -> None:
    blocker = client.submit("narrow", 1, parameters=SLOW)
    late = client.wait(client.submit("narrow", 2, deadline_s=0.2))
    with pytest.raises(DeadlineExceeded):
        late.result()
    client.cancel(blocker)


def test_models(client: Any) -> None:
    names = {model.name: model for model in client.models()}
    assert {"echo", "bert"} <= names.keys()
    bert = client.model("bert")
    assert (bert.task, bert.versions, bert.paused) == ("text-embedding", ("1",), False)
    assert bert.input_schema


def test_any_other_call(client: Any) -> None:
    assert client.request("GET", "/health")["status"] == "ok"
    with pytest.raises(MLServiceError) as caught:
        client.request("GET", "/v1/nothing-here")
    assert caught.value.code == "not_found"


# Lost answers, broken connections, refusals ------------------------------------------------------


def keys_of(requests: list[bytes]) -> list[str]:
    return [re.search(rb"(?i)idempotency-key: (\S+)", one)[1].decode() for one in requests]  # type: ignore[index]


@pytest.mark.parametrize("todo", ["lose", "cut", "refuse", answer("503 Busy", b"{}", Retry_After="1")], ids=str)
def test_a_lost_answer_is_no_second_job(make: Make, url: str, proxy: Proxy, todo: str | bytes) -> None:
    proxy.todo = [todo, "pass"]
    job = make(proxy.url).submit("echo", {"text": "once"})
    first, second = proxy.seen
    assert first == second, "the very same request"
    again = make(url).submit("echo", {"text": "once"}, idempotency_key=keys_of(proxy.seen)[0])
    assert again.id == job.id


def test_inference_finds_its_job_again(make: Make, proxy: Proxy) -> None:
    proxy.todo = ["lose", "pass"]
    found = make(proxy.url).inference("echo", {"text": "once"})
    assert found.output == {"text": "once"}
    assert len(set(keys_of(proxy.seen))) == 1


def test_two_calls_are_two_jobs(make: Make, proxy: Proxy) -> None:
    client = make(proxy.url)
    assert client.submit("echo", 1).id != client.submit("echo", 1).id
    assert len(set(keys_of(proxy.seen))) == 2


def test_a_wait_goes_on_over_broken_connections(make: Make, url: str, proxy: Proxy) -> None:
    job = make(url).submit("echo", 7, parameters=SLOW)
    proxy.todo = ["cut", "refuse", "pass"]
    assert make(proxy.url).wait(job).result() == 7
    assert len(proxy.seen) == 3


def test_the_wait_of_the_service_ends_before_the_clients(make: Make, proxy: Proxy) -> None:
    client = make(proxy.url, timeout=2.0)
    with pytest.raises(WaitEnded) as caught:  # not a timeout of the connection, which would not know the job
        client.inference("echo", 1, parameters=SLOW)
    assert len(proxy.seen) == 1, "x-should-retry: false"
    assert client.wait(caught.value.job).result() == 1


def test_there_is_no_waiting_for_ever(make: Make, proxy: Proxy) -> None:
    proxy.todo = ["hang"]
    with pytest.raises(httpx.ReadTimeout):
        make(proxy.url, timeout=0.2, retries=0).models()
    proxy.todo = ["hang"]
    assert make(proxy.url).with_options(timeout=0.5).models(), "and a second attempt finds it"


def test_nobody_is_there(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(httpx.ConnectError):
        make(f"http://127.0.0.1:{port}", retries=1).models()


def test_something_else_answers(make: Make, proxy: Proxy) -> None:
    proxy.todo = [answer("200 OK", b"<html>")]
    with pytest.raises(UnexpectedAnswer, match="is it an ml-service"):
        make(proxy.url).models()
    proxy.todo = [answer("200 OK", b"[]")]
    with pytest.raises(UnexpectedAnswer):
        make(proxy.url).models()
    proxy.todo = [answer("302 Found", Location="http://127.0.0.1:1/")]
    with pytest.raises(MLServiceError) as caught:
        make(proxy.url, api_key="mls_secret").models()
    assert caught.value.status == 302
    assert len(proxy.seen) == 3, "the key goes nowhere else"


def test_the_key_is_sent_and_not_shown(make: Make, proxy: Proxy) -> None:
    client = make(proxy.url, "mls_secret")
    client.models()
    assert b"Bearer mls_secret" in proxy.seen[0]
    with pytest.raises(UnknownJob) as caught:
        client.get("c5f3edde-7d1b-4787-bb57-854dba8915dd")
    assert "mls_secret" not in repr(caught.value)


# map ----------------------------------------------------------------------------------------------


def test_map(client: Any) -> None:
    told: list[tuple[int, int, int | None]] = []
    inputs = [{"n": n} for n in range(100)]
    found = list(client.map("echo", inputs, concurrency=8, progress=lambda *now: told.append(now)))
    assert found == inputs
    assert told[-1] == (100, 0, 100)


def test_map_of_a_generator_takes_no_more_than_it_needs(client: Any) -> None:
    taken = 0

    def inputs() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    found = client.map("echo", inputs(), concurrency=4)
    assert [next(found) for _ in range(10)] == list(range(1, 11))
    assert taken <= 10 + 4 * 4 + 1
    found.close()
    wait_until(lambda: not any(one.name.startswith("ml-map") for one in threading.enumerate()))


def test_map_of_jobs_that_fail(client: Any) -> None:
    (failed,) = client.map("echo", [1], parameters={"fail": "told to"}, return_errors=True)
    assert isinstance(failed, PredictError)


def test_map_holds_back_when_the_queue_is_full(make: Make, proxy: Proxy) -> None:
    inputs = list(range(16))
    found = make(proxy.url).map("narrow", inputs, concurrency=12, parameters={"sleep_ms": 200})
    assert list(found) == inputs
    keys = keys_of([one for one in proxy.seen if one.startswith(b"POST")])
    assert len(keys) > 16, "some were refused, and came again"
    assert len(set(keys)) == 16, "with the keys that they had"


def test_map_over_lost_answers_is_no_double_work(make: Make, proxy: Proxy) -> None:
    proxy.todo = ["pass", "lose", "cut", "refuse", "pass", "lose"]
    assert list(make(proxy.url).map("echo", range(30), concurrency=3)) == list(range(30))
    assert len(set(keys_of(proxy.seen))) == 30


def test_map_again_with_the_same_keys_does_nothing_twice(client: Any) -> None:
    seen = [list(client.map("echo", ["a", "b"], key=lambda n: f"run-{id(client)}-{n}")) for _ in range(2)]
    assert seen == [["a", "b"], ["a", "b"]]
    job = client.submit("echo", "a", idempotency_key=f"run-{id(client)}-0")
    assert job.attempt == 1
    with pytest.raises(TypeError, match="key"):
        list(client.map("echo", ["a"], idempotency_key="one for all"))


def test_what_the_inputs_raise_comes_out(client: Any) -> None:
    def inputs() -> Any:
        yield 1
        raise LookupError("the file is broken")

    with pytest.raises(LookupError, match="broken"):
        list(client.map("echo", inputs(), concurrency=1))  # nothing is under way then, which asyncio may leak


def test_map_of_an_async_generator(url: str) -> None:
    async def run() -> None:
        async def inputs() -> Any:
            for n in range(20):
                await asyncio.sleep(0)
                yield n

        async with MLServiceClient(url) as client:
            assert [one async for one in client.map("echo", inputs(), concurrency=4)] == list(range(20))
            early = client.map("echo", range(1000), concurrency=4)
            for n in range(20):  # by then all connections are made: asyncio may leak one that is canceled while it is
                assert await anext(early) == n
            await early.aclose()  # type: ignore[attr-defined]
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    asyncio.run(run())


def test_many_callers_of_one_client(url: str) -> None:
    async def run() -> None:
        async with MLServiceClient(url) as client:
            jobs = await asyncio.gather(*(client.submit("echo", n, wait_s=20) for n in range(40)))
        assert [job.result() for job in jobs] == list(range(40))

    asyncio.run(run())


def test_many_threads_of_one_client(url: str) -> None:
    found: dict[int, Job] = {}
    with SyncMLServiceClient(url) as client:

        def ask(n: int) -> None:
            found[n] = client.submit("echo", n, wait_s=20)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {n: job.result() for n, job in found.items()} == {n: n for n in range(16)}


def test_an_answer_is_json_of_a_backend(client: Any) -> None:
    assert json.loads(json.dumps(client.inference("echo", [1])))["output"] == [1]
