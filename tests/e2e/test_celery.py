"""Plain Celery on the other side: producers, control, Flower's view of events; beside a backend's own Celery."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Any

import httpx
import pytest
import redis
from celery import Celery
from celery.exceptions import TaskRevokedError
from kombu import Queue

from local.embedded import EmbeddedServer
from shared import keys
from shared.queue import make_celery
from shared.settings import Settings
from tests.conftest import wait_until
from tests.stock_celery import close_celery, stock_app


@pytest.fixture
def producer(stack: str, stack_server: EmbeddedServer) -> Any:
    with stock_app(stack_server.url) as app:
        yield app


@pytest.fixture
def control(stack: str, stack_server: EmbeddedServer) -> Any:
    app = make_celery(Settings(redis_url=stack_server.url))
    yield app
    close_celery(app)


def test_send_task(producer: Celery, stack_store: redis.Redis) -> None:
    result = producer.send_task("ml.predict", kwargs={"model": "bert", "input": {"text": "x"}}, queue="ml")
    assert len(result.get(timeout=20)["embedding"]) == 384
    two = producer.send_task("ml.predict", kwargs={"model": "bert", "input": {"texts": ["x", "y"]}}, queue="ml")
    assert len(two.get(timeout=20)["embeddings"]) == 2
    assert stack_store.hget(f"{keys.JOB}{two.id}", "items") == b"2", "by which owners take turns"
    pinned = producer.send_task("ml.predict", kwargs={"model": "echo@1", "input": [{"a": []}]}, queue="ml")
    assert pinned.get(timeout=20) == [{"a": []}], "empty lists survive the move between queues"


@pytest.mark.parametrize(
    ("kwargs", "code"),
    [
        ({"model": "nope", "input": {}}, "model_not_found"),
        ({"model": "bert", "input": {"txt": 1}}, "invalid_input"),
        ({"input": {}}, "invalid_input"),
        ({"model": "bert", "input": {}, "surprise": 1}, "invalid_input"),
    ],
)
def test_a_wrong_call_fails_at_once(producer: Celery, stack_store: redis.Redis, kwargs: Any, code: str) -> None:
    result = producer.send_task("ml.predict", kwargs=kwargs, queue="ml")
    with pytest.raises(Exception, match=r".+") as caught:
        result.get(timeout=20)
    assert type(caught.value).__name__ == code


def test_expires_becomes_the_deadline(producer: Celery, http: httpx.Client) -> None:
    http.post("/v1/jobs", json={"model": "echo", "input": 1, "parameters": {"sleep_ms": 2000}})
    result = producer.send_task("ml.predict", kwargs={"model": "echo", "input": 2}, queue="ml", expires=0.7)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=20)


def test_an_http_job_is_an_async_result(producer: Celery, http: httpx.Client) -> None:
    job = http.post("/v1/jobs", json={"model": "echo", "input": {"a": 1}}).json()
    assert producer.AsyncResult(job["id"]).get(timeout=20) == {"a": 1}


def test_inspect_answers_while_a_predict_runs(control: Celery, http: httpx.Client) -> None:
    job = http.post("/v1/jobs", json={"model": "echo", "input": 1, "parameters": {"sleep_ms": 4000}}).json()
    wait_until(lambda: http.get(f"/v1/jobs/{job['id']}").json()["state"] == "running")
    (name,) = control.control.inspect(timeout=1).ping()
    inspect = control.control.inspect(destination=[name], timeout=5)
    for question in (inspect.ping, inspect.active, inspect.stats, inspect.registered):
        begun = time.monotonic()
        (answer,) = question().values()
        assert time.monotonic() - begun < 1
        assert answer
    (active,) = inspect.active().values()
    assert [task["id"] for task in active] == [job["id"]]
    assert http.get(f"/v1/jobs/{job['id']}").json()["state"] == "running", "the predict still runs"
    http.get(f"/v1/jobs/{job['id']}", params={"wait": 20})


def test_a_reply_to_who_has_gone_does_not_stay(control: Celery, stack_store: redis.Redis) -> None:
    """As when the asker gives up just after the worker has looked where the reply goes to."""
    mailbox = control.control.mailbox
    gone = Queue(f"gone{keys.REPLIES}", mailbox.reply_exchange, routing_key="gone", auto_delete=True)
    with control.connection() as connection:
        (bound := gone(connection.default_channel)).declare()
        reply_to = {"exchange": mailbox.reply_exchange.name, "routing_key": "gone"}
        question = {"method": "ping", "arguments": {}, "destination": None, "ticket": "gone", "reply_to": reply_to}
        with connection.Producer() as asker:
            asker.publish(question, exchange=mailbox.exchange.name, declare=[mailbox.exchange], serializer="json")
        wait_until(lambda: stack_store.exists(bound.name), what="the worker has replied")
        assert 0 < stack_store.pttl(bound.name) <= 10_000
        bound.delete()


def test_revoke_ends_right_for_who_waits(control: Celery, producer: Celery, http: httpx.Client) -> None:
    """Behind others in the queue, held by the worker, and running."""
    slow = {"model": "echo", "input": 0, "parameters": {"sleep_ms": 1200}}
    # It must run still when the others are queued and all three are revoked, on a slow machine too.
    running = http.post("/v1/jobs", json=slow | {"parameters": {"sleep_ms": 8000}}).json()["id"]
    wait_until(lambda: http.get(f"/v1/jobs/{running}").json()["state"] == "running")
    held = http.post("/v1/jobs", json=slow).json()["id"]
    behind = [http.post("/v1/jobs", json=slow).json()["id"] for _ in range(60)]
    queued = behind[-1]
    waits = {}

    def wait(job_id: str) -> None:
        waits[job_id] = http.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json()["state"]

    threads = [threading.Thread(target=wait, args=(job_id,)) for job_id in (running, held, queued)]
    for thread in threads:
        thread.start()
    control.control.revoke([running, held, queued])
    for thread in threads:
        thread.join(40)
    assert waits == dict.fromkeys((running, held, queued), "canceled")
    for job_id in (running, held, queued):
        assert producer.AsyncResult(job_id).state == "REVOKED"
    for job_id in behind:
        http.delete(f"/v1/jobs/{job_id}")


def test_events_tell_flower_the_truth(control: Celery, http: httpx.Client, stack_server: EmbeddedServer) -> None:
    seen: dict[str, list[str]] = defaultdict(list)
    ready, stop = threading.Event(), threading.Event()

    def listen() -> None:
        with control.connection() as connection:
            receiver = control.events.Receiver(
                connection, handlers={"*": lambda event: seen[event.get("uuid", "")].append(event["type"])}
            )
            for _ in receiver.itercapture(limit=None, timeout=None, wakeup=True):
                ready.set()
                if stop.is_set():
                    return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()

    def post(**body: Any) -> str:
        job_id: str = http.post("/v1/jobs", json={"model": "echo", "input": 1} | body).json()["id"]
        return job_id

    wait_until(lambda: post() and any(list(seen)), what="the listener hears events")  # of a job: workers' have no uuid
    blocker = post(parameters={"sleep_ms": 1500})
    wait_until(lambda: http.get(f"/v1/jobs/{blocker}").json()["state"] == "running")
    canceled, failed = post(), post(parameters={"fail": "x"})
    http.delete(f"/v1/jobs/{canceled}")
    http.get(f"/v1/jobs/{failed}", params={"wait": 20})
    wait_until(lambda: {"task-failed"} <= set(seen[failed]) and "task-revoked" in seen[canceled], timeout_s=15)
    wait_until(lambda: seen[blocker] == ["task-received", "task-started", "task-succeeded"], what=str(seen[blocker]))
    assert "task-succeeded" not in seen[canceled]
    assert seen[failed] == ["task-received", "task-started", "task-failed"]
    stop.set()
