"""Whatever goes wrong, no log has an input, a key or a password in it; and each line is of the shape that
docs/operations.md tells, with the ids of request and job."""

from __future__ import annotations

import base64
import json
import pickle
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys, messages
from shared.api_keys import ApiKey, Scope, digest
from shared.logs import Event
from tests.conftest import wait_until
from tests.processes import api, worker
from tests.stock_celery import stock_app

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
  quoting:
    handler: tests/e2e/handlers.py:Quoting
    versions: {"1": {}}
"""
INPUT, PASSWORD, SECRET, WRONG = "the-input-9f3a", "the-password-9f3a", "mls_the-key-9f3a", "mls_the-wrong-key-9f3a"
MARKERS = [INPUT, PASSWORD, SECRET, WRONG]
LOUD = {"ML_LOG_LEVEL": "DEBUG", "ML_LOG_FORMAT": "json", "ML_ACCESS_LOG": "true"}
QUICK = {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5", "ML_INLINE_BYTES": "200"}
LIBRARIES = ("celery", "kombu", "py.warnings", "uvicorn", "asyncio", "redis")
OF_A_JOB = {Event.JOB_FAILED, Event.JOB_ADOPTED, Event.JOB_SKIPPED, Event.BATCH_FAILED, Event.LEASE_LOST}


class Loud:
    """A stack that says all it can say, and what it has said."""

    def __init__(self, server: EmbeddedServer, http: httpx.Client, files: list[Path]) -> None:
        self.server, self.http, self.files = server, http, files
        self.asked: dict[str, str] = {}  # job id -> request id

    def said(self) -> list[dict[str, Any]]:
        """Whole lines; the last may be on its way."""
        return [json.loads(line) for file in self.files for line in file.read_text().split("\n")[:-1]]

    def until(self, event: Event, **fields: Any) -> None:
        """One of them has said so, with these fields or more."""
        told = {"event": event, **fields}
        wait_until(lambda: any(told.items() <= line.items() for line in map(_flat, self.said())), what=str(told))

    def store(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url)

    def submit(self, model: str, value: Any, **body: Any) -> str:
        request_id = f"request-{len(self.asked)}"
        headers = {"X-Request-ID": request_id}
        answer = self.http.post("/v1/jobs", json={"model": model, "input": value} | body, headers=headers)
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["id"]
        self.asked[job_id] = request_id
        return job_id

    def ended(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.http.get(f"/v1/jobs/{job_id}", params={"wait": 40}).json()
        assert job["state"] not in ("queued", "running"), job
        return job

    def push(self, raw: bytes, queue: str) -> None:
        with self.store() as store:
            store.lpush(queue, raw)

    def dead(self) -> int:
        with self.store() as store:
            return store.xlen(keys.DEAD)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All that API and worker have said, from their start to their end."""
    folder = tmp_path_factory.mktemp("loud")
    models, files = folder / "models.yaml", [folder / "api", folder / "worker"]
    models.write_text(MODELS)
    user = ["--user", "svc", "on", f">{PASSWORD}", "~*", "&*", "+@all"]
    with (
        files[0].open("wb") as ours,
        files[1].open("wb") as theirs,
        EmbeddedServer(folder / "redis", extra=user) as server,
    ):
        url = server.url.replace("redis://", f"redis://svc:{PASSWORD}@")
        with redis.Redis.from_url(server.url) as store:
            key = ApiKey(id="key_1", name="us", scopes=frozenset({Scope.ADMIN}))
            store.hset(keys.KEYS, digest(SECRET), key.model_dump_json())
        with (
            api(url, models, output=ours.fileno(), ML_AUTH="on", **LOUD, **QUICK) as address,
            worker(url, models, output=theirs.fileno(), **LOUD, **QUICK),
            httpx.Client(base_url=address, timeout=60, headers={"Authorization": f"Bearer {SECRET}"}) as http,
        ):
            loud = Loud(server, http, files)
            refused(loud)
            failed(loud)
            unreadable(loud)
            plain(loud)
            without_redis(loud)
    assert all(file.read_text().endswith("\n") for file in files)
    found = loud.said()
    asked = [line for line in found if line.get("job_id") in loud.asked]
    assert {line["job_id"] for line in asked} == set(loud.asked), "each job is in some line"
    assert all(line["request_id"] == loud.asked[line["job_id"]] for line in asked if line["logger"] == "ml.worker")
    return found


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if isinstance(value, str | int)}


def refused(loud: Loud) -> None:
    """What the API does not take."""
    http, statuses = loud.http, []
    for body in ({"text": 7, "deadly": INPUT}, INPUT, [{"text": INPUT}, INPUT], None):
        statuses.append(http.post("/v1/jobs", json={"model": "quoting", "input": body}).status_code)
    statuses += [
        http.post("/v1/jobs", content=f'{{"model": "echo", "input": "{INPUT}'.encode()).status_code,
        http.post("/v1/jobs", json={"model": INPUT, "input": INPUT, INPUT: INPUT}).status_code,
        http.post("/inference", json={"model_type": INPUT, "data": INPUT}).status_code,
        http.post("/v1/jobs", content=INPUT, headers={"Content-Type": f"image/{INPUT}"}).status_code,
        http.post("/v1/jobs", files={INPUT: (INPUT, INPUT)}, data={"model": "quoting"}).status_code,
        http.post("/v1/jobs", content=INPUT, headers={"Content-Encoding": "gzip"}).status_code,
        http.get(f"/v1/{INPUT}", params={"q": INPUT}, headers={"Cookie": INPUT, "User-Agent": INPUT}).status_code,
        http.get(f"/v1/jobs/{INPUT}").status_code,
        http.get("/v1/dead/0-1", params={"x": INPUT}).status_code,
        http.put(f"/v1/models/{INPUT}", json={"task": INPUT}).status_code,
        http.get("/v1/models", headers={"Authorization": f"Bearer {WRONG}"}).status_code,
        http.get("/v1/models", headers={"Authorization": "", "X-API-Key": WRONG}).status_code,
    ]
    assert set(statuses) <= set(range(400, 500)), statuses
    port = http.base_url.port
    assert port is not None
    for garbage in (f"{INPUT}\r\n\r\n", f"GET /{INPUT} HTTP/9\r\n{INPUT}\r\n\r\n", f"GET /%0a{INPUT} HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(garbage.encode())
            assert connection.recv(1000)


def failed(loud: Loud) -> None:
    """Jobs that fail on the worker."""
    for where in ("prepare", "predict", "finish", "memory", "none", "odd"):
        job_id = loud.submit("quoting", {"text": f"{where} {INPUT}"}, labels={"l": INPUT}, sticky=INPUT)
        assert loud.ended(job_id)["state"] == "failed", where
    many = [{"text": f"predict {INPUT}"}, {"text": INPUT}, {"text": f"prepare {INPUT}"}]
    assert loud.ended(loud.submit("quoting", many, parameters={"partial": True}))["errors"]
    assert loud.ended(loud.submit("echo", INPUT, parameters={"fail": INPUT}))["state"] == "failed"
    assert loud.ended(loud.submit("echo", INPUT * 100))["state"] == "succeeded"
    busy = loud.submit("echo", INPUT, parameters={"sleep_ms": 1500})
    late = loud.submit("echo", INPUT, deadline_s=0.5)
    canceled = loud.submit("echo", INPUT, priority="low")
    assert loud.http.delete(f"/v1/jobs/{canceled}").json()["state"] == "canceled"
    assert [loud.ended(job)["state"] for job in (busy, late, canceled)] == ["succeeded", "failed", "canceled"]


def unreadable(loud: Loud) -> None:
    """Messages that no API of ours writes."""
    queue = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL)

    def changed(job_id: str, **changes: Any) -> bytes:
        raw = messages.build(job_id, queue="ml.echo.1", priority=3, model="echo", version="1", input=INPUT)
        message = json.loads(raw)
        message["headers"] |= {"ml_request_id": f"request-of-{job_id}"} | changes.pop("headers", {})
        return json.dumps(message | changes).encode()

    body = base64.b64encode(pickle.dumps(INPUT)).decode()
    wrong = base64.b64encode(json.dumps([[], {"model": "echo", INPUT: INPUT}, {}]).encode()).decode()
    before = loud.dead()
    bad = [
        INPUT.encode(),
        changed("u1", body=INPUT),
        changed("u2", **{"content-type": "application/x-python-serialize"}, body=body),
        changed("u3", body=wrong),
        changed("u4", headers={"ml_payloads": INPUT}),
        changed("u5", headers={"compression": "application/x-gzip"}),
        changed("u6", headers={"task": "other.task", "id": "u6"}),
        changed("u7", **{"content-encoding": INPUT}),
        changed("u8"),  # of which there is no record
        json.dumps({"properties": {"delivery_tag": "u9"}, INPUT: INPUT}).encode(),
    ]
    for raw in bad:
        loud.push(raw, queue)
    wait_until(lambda: loud.dead() >= before + len(bad) - 1, what="the dead letters")
    letters = loud.http.get("/v1/dead").json()["letters"]
    unparsable = next(one["id"] for one in letters if one["reason"] == "unparsable")
    assert loud.http.post(f"/v1/dead/{unparsable}/retry").status_code == 409
    assert loud.http.delete(f"/v1/dead/{letters[0]['id']}").status_code == 204


def plain(loud: Loud) -> None:
    """Plain Celery producers who write what we cannot use."""
    headers = {"ml_request_id": "request-of-a-plain-one"}
    with stock_app(loud.server.url) as producer:
        for kwargs, options in (
            ({"model": INPUT, "input": INPUT}, {}),
            ({"model": "quoting", "input": {"text": f"predict {INPUT}"}}, {}),
            ({"model": "quoting", "input": INPUT}, {}),
            ({"model": "echo", "input": INPUT, INPUT: INPUT}, {}),
            ({"model": "echo", "input": INPUT}, {"time_limit": INPUT}),
        ):
            result = producer.send_task("ml.predict", kwargs=kwargs, queue="ml", headers=headers, **options)
            assert result.get(timeout=20, propagate=False) is not None


def without_redis(loud: Loud) -> None:
    """It is gone while a job runs and callers ask, comes back without its data's last moments, and is full."""
    running = loud.submit("echo", INPUT, parameters={"sleep_ms": 500})
    wait_until(lambda: loud.http.get(f"/v1/jobs/{running}").json()["state"] == "running")
    loud.server.stop()
    loud.until(Event.REDIS_LOST, logger="ml.worker", step="finish", jobs=1)
    loud.until(Event.REDIS_LOST, logger="ml.api", level="WARNING")
    assert loud.http.post("/v1/jobs", json={"model": "echo", "input": INPUT}).status_code == 503
    assert loud.http.post("/inference", json={"model_type": "echo", "data": INPUT}).status_code == 503
    loud.server.start()
    loud.until(Event.REDIS_BACK)
    assert loud.ended(running)["state"] == "succeeded"
    with loud.store() as store:
        store.config_set("maxmemory", 1)
        loud.until(Event.STORE_FULL)
        assert loud.http.post("/v1/jobs", json={"model": "echo", "input": INPUT}).status_code == 503
        store.config_set("maxmemory", 0)
        store.execute_command("ACL", "SETUSER", "svc", "-@all")
        assert loud.http.get(f"/v1/jobs/{running}").status_code >= 500
        store.execute_command("ACL", "SETUSER", "svc", "+@all", "resetpass", f">{PASSWORD}2")
        store.execute_command("CLIENT", "KILL", "USER", "svc")
        assert loud.http.get(f"/v1/jobs/{running}").status_code >= 500
        loud.until(
            Event.LEASE_RENEWAL_FAILED, error="AuthenticationError: invalid username-password pair or user is disabled."
        )
        store.execute_command("ACL", "SETUSER", "svc", f">{PASSWORD}")
    assert loud.ended(loud.submit("echo", INPUT))["state"] == "succeeded"


@pytest.mark.parametrize("marker", MARKERS)
def test_no_line_has_it(lines: list[dict[str, Any]], marker: str) -> None:
    assert [line for line in lines if marker in json.dumps(line)] == []


def test_each_line_is_as_it_is_told(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        assert datetime.fromisoformat(line["at"]).utcoffset() is not None
        if line["logger"].startswith("ml."):
            assert line["event"] in list(Event), line
        else:
            assert line["logger"].partition(".")[0] in LIBRARIES or line["logger"] in LIBRARIES, line
            assert line["level"] in ("WARNING", "ERROR", "CRITICAL")
            assert len(line["event"]) <= 500
        assert set(line) >= {"at", "level", "logger", "event"}


def test_lines_about_a_job_name_it_and_its_request(lines: list[dict[str, Any]]) -> None:
    about = [line for line in lines if line["event"] in OF_A_JOB]
    assert {line["event"] for line in about} >= OF_A_JOB - {Event.LEASE_LOST}
    for line in about:
        for told in line.get("jobs", [line]):
            assert told["job_id"], line
            assert told["request_id"], line
    assert {line.get("job_id") for line in about} >= {f"u{number}" for number in range(1, 9)}, (
        "also what cannot be read"
    )
    assert all(line["request_id"] for line in lines if line["event"] == Event.REQUEST)


def test_what_went_wrong_is_told(lines: list[dict[str, Any]]) -> None:
    """Else the others would pass on an empty log."""
    events = {line["event"] for line in lines}
    assert events >= {
        Event.STARTED,
        Event.WORKER_READY,
        Event.REQUEST,
        Event.BATCH_DONE,
        Event.JOBS_SWEPT,
        Event.LETTER_DROPPED,
        Event.REDIS_LOST,
        Event.REDIS_BACK,
        Event.STORE_FULL,
        Event.STOPPED,
    }
    codes = {line.get("code") for line in lines}
    assert codes >= {"predict_error", "out_of_memory", "handler_contract", "invalid_input", "message_unreadable"}
    assert any("ExceptionGroup" in line.get("exception", "") for line in lines)
