"""A Redis that is somebody else's: all that the service does works with the rights that docs/configuration.md asks for,
and nothing that it tries is denied (`managed` looks at the server's own log of that). Plain Celery, `inspect` and
Flower with them: e2e/test_connections."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared import keys
from shared.settings import Settings
from shared.store import connect
from tests.conftest import wait_until
from tests.processes import REPOSITORY, api, environment, worker
from tests.receiver import Receiver
from tests.redis_kinds import managed

pytestmark = pytest.mark.long

MODELS = """
models:
  echo: {task: echo, versions: {"1": {}}, limits: {per_key: {requests: 10000/minute, concurrent: 1000}}}
  lazy: {task: echo, versions: {"1": {}}, load: lazy}
"""
QUICK = {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5", "ML_INLINE_BYTES": "100", "ML_OUTBOUND_ALLOW": "127.0.0.0/8"}


def _key(url: str, models: Path) -> str:
    """The first, as it is made: by the command."""
    command = [sys.executable, "-m", "api", "keys", "create", "--name", "tour", "--scope", "admin"]
    run = subprocess.run(command, env=environment(url, models), cwd=REPOSITORY, check=True, stdout=subprocess.PIPE)
    return next(line.split()[1] for line in run.stdout.decode().splitlines() if line.startswith("secret"))


def _do(http: httpx.Client, method: str, path: str, **more: Any) -> Any:
    answer = http.request(method, path, **more)
    assert answer.status_code < 300, (method, path, answer.text)
    return answer.json() if "json" in answer.headers.get("content-type", "") else answer.text


def _ended(http: httpx.Client, job_id: str) -> str:
    state: str = _do(http, "GET", f"/v1/jobs/{job_id}", params={"wait": 30})["state"]
    return state


def test_all_of_the_service(tmp_path: Path, models: Path) -> None:
    with managed(tmp_path / "redis") as url, Receiver() as receiver, connect(Settings(redis_url=url)) as store:
        headers = {"Authorization": f"Bearer {_key(url, models)}"}
        with (
            api(url, models, ML_AUTH="on", **QUICK) as at,
            httpx.Client(base_url=at, timeout=60, headers=headers) as http,
        ):
            with worker(url, models, **QUICK) as process:
                _jobs(http, receiver)
                _batch(http, receiver)
                _operate(http)
                _dead_letter(http, lambda raw: store.lpush(keys.queue_list(keys.queue_name("echo", "1"), 3), raw))
                held = _do(http, "POST", "/v1/jobs", json=_echo("held", sleep_ms=1500))["id"]
                wait_until(lambda: _do(http, "GET", f"/v1/jobs/{held}")["state"] == "running")
                os.kill(process.pid, 9)  # its lease runs out
            with worker(url, models, "w2", **QUICK):
                assert _ended(http, held) == "succeeded"


def _echo(given: Any, **parameters: Any) -> dict[str, Any]:
    return {"model": "echo", "input": given, "parameters": parameters}


def _jobs(http: httpx.Client, receiver: Receiver) -> None:
    for body in (_echo(1), _echo("x" * 500), _echo([1, 2, 3]), _echo(1) | {"model": "lazy"}):
        again = {"Prefer": "wait=30", "Idempotency-Key": f"{body['model']}-{len(str(body))}"}
        told = _do(http, "POST", "/v1/jobs", json=body, headers=again)
        assert told["state"] == "succeeded"
    data = base64.b64encode(b"y" * 200).decode()
    assert _do(http, "POST", "/inference", json={"model_type": "echo", "data": data})["output"] == data
    job = _do(http, "POST", "/v1/jobs", json=_echo(2, sleep_ms=200) | {"webhook": receiver.url, "deadline_s": 60})
    events = _do(http, "GET", f"/v1/jobs/{job['id']}/events")
    assert "event: succeeded" in events
    wait_until(lambda: receiver.of("job.succeeded"), what="the webhook")
    assert _do(http, "GET", f"/v1/jobs/{job['id']}/deliveries")
    assert _do(http, "GET", f"/v1/jobs/{job['id']}/output") == 2
    assert _do(http, "GET", "/v1/jobs", params={"model": "echo", "state": "succeeded"})["data"]
    late = _do(http, "POST", "/v1/jobs", json=_echo(3, sleep_ms=5000) | {"deadline_s": 1})
    assert _ended(http, late["id"]) in ("failed", "canceled")
    gone = _do(http, "POST", "/v1/jobs", json=_echo(4))
    assert _do(http, "DELETE", f"/v1/jobs/{gone['id']}")["id"] == gone["id"]


def _batch(http: httpx.Client, receiver: Receiver) -> None:
    body = {"model": "echo", "inputs": list(range(50)), "webhook": receiver.url}
    batch = _do(http, "POST", "/v1/batches", json=body)["id"]
    wait_until(lambda: _do(http, "GET", f"/v1/batches/{batch}", params={"wait": 5})["state"] == "completed")
    assert _do(http, "GET", "/v1/batches")
    assert _do(http, "GET", f"/v1/batches/{batch}/deliveries")
    other = _do(http, "POST", "/v1/batches", json={"model": "echo", "inputs": [1, 2]})["id"]
    _do(http, "DELETE", f"/v1/batches/{other}")


def _operate(http: httpx.Client) -> None:
    file = _do(http, "POST", "/v1/files", content=b"z" * 300, headers={"Content-Type": "image/png"})["id"]
    assert _do(http, "GET", f"/v1/files/{file}/content") == "z" * 300
    _do(http, "DELETE", f"/v1/files/{file}")
    _do(http, "POST", "/v1/models/echo/pause")
    waiting = _do(http, "POST", "/v1/jobs", json=_echo(5))["id"]
    _do(http, "POST", "/v1/models/echo/purge")
    assert _ended(http, waiting) == "canceled"
    _do(http, "POST", "/v1/models/echo/resume")
    assert _ended(http, _do(http, "POST", "/v1/jobs", json=_echo(6))["id"]) == "succeeded"
    _do(http, "PUT", "/v1/models/new", json={"task": "echo", "versions": {"1": {}}})
    wait_until(lambda: http.get("/readyz", params={"model": "new"}).status_code == 200, what="it is served")
    _do(http, "DELETE", "/v1/models/new")
    made = _do(http, "POST", "/v1/keys", json={"name": "another"})
    _do(http, "GET", "/v1/keys")
    _do(http, "DELETE", f"/v1/keys/{made['id']}")
    for path in ("/v1/workers", "/v1/models", "/health", "/readyz", "/metrics", "/metrics/workers"):
        _do(http, "GET", path)


def _dead_letter(http: httpx.Client, push: Any) -> None:
    push(b"no message")
    wait_until(lambda: _do(http, "GET", "/v1/dead")["letters"], what="the dead letter")
    (letter,) = _do(http, "GET", "/v1/dead")["letters"]
    _do(http, "DELETE", f"/v1/dead/{letter['id']}")
