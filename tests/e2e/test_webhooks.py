"""Webhooks with real processes: whoever is killed, stopped or away, each event is told, with the same id and bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys
from tests.conftest import wait_until
from tests.processes import REPOSITORY, api, environment, worker
from tests.receiver import OK, Answer, Message, Receiver

pytestmark = pytest.mark.long

MODELS = """
models:
  echo: {task: echo, versions: {"1": {}}, batch: {max_size: 16}}
"""
ALLOW = {"ML_OUTBOUND_ALLOW": "127.0.0.0/8", "ML_WEBHOOK_SCHEDULE": "0.1,0.5,1,1,1,1,1,1,1,1,1,1,1,1,1"}
QUICK = ALLOW | {"ML_WEBHOOK_TIMEOUT_S": "1"}  # so a lease is 6 s


@contextmanager
def delivering(redis_url: str, models: Path, log: Path, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m api deliver`, which has begun when it yields."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "api", "deliver"],
            env=environment(redis_url, models, **extra),
            cwd=REPOSITORY,
            stderr=output,
        )
    try:
        wait_until(lambda: b" started " in log.read_bytes() or process.poll() is not None, what="it has begun")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def submit(http: httpx.Client, url: str, **more: Any) -> str:
    body = {"model": "echo", "input": {"text": "canary-of-an-input"}, "webhook": url, **more}
    answer = http.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


def test_two_apis_and_a_worker_tell_each_event_once(redis_url: str, models: Path, store: redis.Redis) -> None:
    with (
        Receiver() as receiver,
        worker(redis_url, models),
        api(redis_url, models, **ALLOW) as one,
        api(redis_url, models, **ALLOW) as other,
        httpx.Client(base_url=one, timeout=30) as first,
        httpx.Client(base_url=other, timeout=30) as second,
    ):
        made = [submit(http, receiver.url) for http in (first, second) for _ in range(30)]
        wait_until(lambda: len(receiver.got) >= len(made), what="all are told")
        wait_until(lambda: store.zcard(keys.WEBHOOKS) == 0, what="nothing is left")
        secret = second.get("/v1/webhooks/secret").json()["secret"]
        assert Counter(message.verified(secret)["data"]["id"] for message in receiver.got) == dict.fromkeys(made, 1)
        assert {message.said["type"] for message in receiver.got} == {"job.succeeded"}


def test_kill_9_in_mid_delivery(redis_url: str, models: Path, tmp_path: Path) -> None:
    killed = threading.Event()

    def answer(_: Message) -> Answer:
        if len(receiver.got) == 1:
            killed.wait(30)
        return OK

    off = {"ML_WEBHOOK_DELIVERY": "off", **QUICK}
    with (
        Receiver(answer) as receiver,
        worker(redis_url, models),
        api(redis_url, models, **off) as url,
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        with delivering(redis_url, models, tmp_path / "first.log", **QUICK | {"ML_WEBHOOK_TIMEOUT_S": "5"}) as first:
            job_id = submit(http, receiver.url)
            wait_until(lambda: receiver.got, what="it is under way")
            first.send_signal(signal.SIGKILL)
            first.wait()
        killed.set()
        with delivering(redis_url, models, tmp_path / "second.log", **QUICK):
            wait_until(lambda: len(receiver.got) == 2, what="another delivers")
            path = f"/v1/jobs/{job_id}/deliveries"
            wait_until(lambda: http.get(path).json()["data"][0]["state"] == "delivered", what="it is done")
        assert len({(message.id, message.body) for message in receiver.got}) == 1, (
            "the receiver can tell it is the same"
        )
        assert len(http.get(path).json()["data"][0]["attempts"]) == 1


def test_a_stop_ends_what_is_in_hand_and_takes_no_more(redis_url: str, models: Path, tmp_path: Path) -> None:
    go_on = threading.Event()

    def answer(_: Message) -> Answer:
        go_on.wait(30)
        return OK

    off = {"ML_WEBHOOK_DELIVERY": "off", **ALLOW}
    with (
        Receiver(answer) as receiver,
        worker(redis_url, models),
        api(redis_url, models, **off) as url,
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        log = tmp_path / "deliver.log"
        with delivering(redis_url, models, log, **ALLOW) as process:
            first = submit(http, receiver.url)
            wait_until(lambda: receiver.got, what="it is under way")
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: b" stopping " in log.read_bytes(), what="it stops")
            second = submit(http, receiver.url)
            http.get(f"/v1/jobs/{second}", params={"wait": 20})
            go_on.set()
            assert process.wait(15) == 0
        states = [http.get(f"/v1/jobs/{job_id}/deliveries").json()["data"][0]["state"] for job_id in (first, second)]
        assert (states, len(receiver.got)) == (["delivered", "due"], 1)
        assert "canary" not in log.read_text(), "neither query nor input"


def test_an_api_that_is_stopped_gives_back_what_does_not_answer(redis_url: str, models: Path) -> None:
    """It does not wait for a receiver as long as its lease: another has it at once."""
    hang = threading.Event()

    def answer(_: Message) -> Answer:
        if len(receiver.got) == 1:
            hang.wait(60)
        return OK

    with Receiver(answer) as receiver, worker(redis_url, models):
        with (
            api(redis_url, models, **ALLOW, ML_WEBHOOK_TIMEOUT_S="60") as url,
            httpx.Client(base_url=url, timeout=30) as http,
        ):
            submit(http, receiver.url)
            wait_until(lambda: receiver.got, what="it is under way")
        with api(redis_url, models, **ALLOW):
            wait_until(lambda: len(receiver.got) == 2, timeout_s=20, what="another delivers")
        hang.set()
        assert receiver.got[0].id == receiver.got[1].id


def test_redis_is_killed_while_a_receiver_is_down(models: Path, tmp_path: Path) -> None:
    status = [500]
    with (
        EmbeddedServer(tmp_path / "redis") as server,
        Receiver(lambda _: (status[0], {}, b"")) as receiver,
        worker(server.url, models),
        api(server.url, models, **ALLOW) as url,
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        made = [submit(http, receiver.url) for _ in range(5)]
        wait_until(lambda: {message.said["data"]["id"] for message in receiver.got} == set(made), what="all were tried")
        with redis.Redis.from_url(server.url) as store:
            wait_until(lambda: store.hget(keys.HOOK_COUNTS, "retry"), what="a report is in")
        server.kill()
        seen = len(receiver.got)
        status[0] = 200
        server.start()
        with redis.Redis.from_url(server.url) as store:
            wait_until(lambda: store.zcard(keys.WEBHOOKS) == 0, timeout_s=40, what="all are told")
            assert int(store.hget(keys.HOOK_COUNTS, "delivered") or 0) == len(made)
        after = Counter(message.said["data"]["id"] for message in receiver.got[seen:])
        assert set(after) == set(made)
        assert len({message.body for message in receiver.got}) == len(made), "each by the same bytes"


@pytest.mark.slow
def test_thousands_are_told_while_a_host_hangs(redis_url: str, models: Path, store: redis.Redis) -> None:
    hang = threading.Event()
    with (
        Receiver(lambda _: (hang.wait(60), OK)[1]) as slow,
        Receiver() as quick,
        worker(redis_url, models),
        api(redis_url, models, **ALLOW, ML_WEBHOOK_TIMEOUT_S="60") as url,
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        for n in range(2000):
            submit(http, slow.url if n % 2 else quick.url)
        wait_until(lambda: len(quick.got) == 1000, timeout_s=100, what="the other is told of all")
        assert 1 <= len(slow.got) <= 8, "its share of one process"
        assert len({message.id for message in quick.got}) == 1000
        hang.set()
