"""Celery's events through lost connections: whatever was lost with one, later events come as if nothing had been."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys
from tests.conftest import wait_until
from tests.processes import api, worker

pytestmark = pytest.mark.long

MODELS = """
models:
  echo: {task: echo, versions: {"1": {}}, batch: {max_size: 4}}
"""
LINES, KILLS = 4000, 12


class Listener:
    """Hears events as Flower does, on a connection that is not killed."""

    def __init__(self, url: str) -> None:
        self._store = redis.Redis.from_url(url, client_name="listener")
        self._pubsub = self._store.pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe(f"*{keys.EVENT_EXCHANGE}*")
        self._heard: set[tuple[str, str]] = set()

    def heard(self, kind: str, job_id: str) -> bool:
        """Whether such an event of the job has come so far."""
        while message := self._pubsub.get_message():
            told = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
            for event in told if isinstance(told, list) else [told]:
                self._heard.add((event["type"], event.get("uuid", "")))
        return (kind, job_id) in self._heard

    def close(self) -> None:
        self._pubsub.close()
        self._store.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "redis") as running:
        yield running


@pytest.fixture
def listener(server: EmbeddedServer) -> Iterator[Listener]:
    one = Listener(server.url)
    yield one
    one.close()


def test_events_flow_after_connections_were_lost_among_them(
    server: EmbeddedServer, models: Path, listener: Listener
) -> None:
    """Those that the worker's loop listens to: it is left by an error, and begun anew. (That a turn which was left half
    done holds up no later event, whose moment no test of whole processes can choose: unit/test_consumer_events.)"""
    store = redis.Redis.from_url(server.url)
    with worker(server.url, models), api(server.url, models) as at, httpx.Client(base_url=at, timeout=60) as http:
        batch = http.post("/v1/batches", json={"model": "echo", "inputs": list(range(LINES))}).json()["id"]

        def ended() -> int:
            succeeded: int = http.get(f"/v1/batches/{batch}").json()["counts"]["succeeded"]
            return succeeded

        for _ in range(KILLS):
            before = ended()
            assert before < LINES, "they were to be killed while events come"
            wait_until(lambda before=before: ended() > before, what="jobs end")
            for client in store.client_list(_type="pubsub"):  # the worker's loop listens to its own; the API's too
                if client["name"] != "listener":
                    store.client_kill_filter(_id=client["id"])
        wait_until(lambda: ended() == LINES, what="all have ended")
        job_id = http.post("/v1/jobs", json={"model": "echo", "input": 1}).json()["id"]
        wait_until(lambda: listener.heard("task-succeeded", job_id), what="its events are heard")
    store.close()


def test_a_worker_that_drains_tells_of_its_last_jobs(server: EmbeddedServer, models: Path, listener: Listener) -> None:
    with api(server.url, models) as at, httpx.Client(base_url=at, timeout=60) as http:
        with worker(server.url, models):
            ids = [http.post("/v1/jobs", json={"model": "echo", "input": n}).json()["id"] for n in range(5)]
            for job_id in ids:
                assert http.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json()["state"] == "succeeded"
        wait_until(lambda: all(listener.heard("task-succeeded", one) for one in ids), what="its events are heard")
