"""All kinds of Redis that ML_REDIS_URL can name: the whole path of a job over each, with a real API and worker."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery

from shared import keys
from shared.queue import make_celery
from shared.redis_url import parse
from shared.settings import Settings
from shared.store import connect
from tests.conftest import wait_until
from tests.processes import api, flower_process, queue_ms, worker
from tests.redis_kinds import KINDS, PASSWORD, USER, WATCHWORD
from tests.stock_celery import close_celery

pytestmark = pytest.mark.long

MODELS = """
models:
  echo: {task: echo, versions: {"1": {}}}
  other: {task: echo, versions: {"1": {}}}
"""
LISTS = [
    keys.queue_list(keys.queue_name(model, "1"), priority)
    for model in ("echo", "other")
    for priority in keys.PRIORITIES
]


BY_FILE = ("redis", "sentinel-tls")  # their passwords are in files, the others' in the URL


@pytest.fixture(params=KINDS)
def whole_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """With the password, for others than us."""
    with KINDS[request.param](tmp_path / "redis") as found:
        yield found


@pytest.fixture
def url(whole_url: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """ML_REDIS_URL."""
    if request.node.callspec.params["whole_url"] not in BY_FILE:
        return whole_url
    for variable, password in (("ML_REDIS_PASSWORD_FILE", PASSWORD), ("ML_SENTINEL_PASSWORD_FILE", WATCHWORD)):
        file = tmp_path / variable
        file.write_text(f"{password}\n")
        monkeypatch.setenv(variable, str(file))
    return whole_url.replace(USER, USER.partition(":")[0]).replace(f"&sentinel_password={WATCHWORD}", "")


def producer(url: str) -> Celery:
    """A backend's own Celery, with the options that its documentation asks for."""
    address = parse(url)
    app = Celery("backend", broker=address.stock_url(), backend=address.stock_url(), set_as_current=False)
    files = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    safe = {"ssl_cert_reqs": ssl.CERT_REQUIRED, **{name: address.tls[name] for name in files if name in address.tls}}
    if address.tls:
        app.conf.broker_use_ssl = app.conf.redis_backend_use_ssl = safe
    if address.master:
        asked = {"password": WATCHWORD} | ({"ssl": True} | safe if address.tls else {})
        options = {"master_name": address.master, "sentinel_kwargs": asked}
        app.conf.broker_transport_options = app.conf.result_backend_transport_options = options
    return app


def test_every_part_works(url: str, whole_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(MODELS)
    store = connect(Settings(redis_url=url))
    backend, control = producer(whole_url), make_celery(Settings(redis_url=url))
    with api(url, models) as at, httpx.Client(base_url=at, timeout=60) as http:
        waiting = [_post(http, model=model, priority=p) for model in ("echo", "other") for p in keys.PRIORITY_NAMES]
        assert [store.llen(name) for name in LISTS] == [1] * 6
        with worker(url, models):
            for job_id in waiting:
                assert http.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json()["state"] == "succeeded"
            job_id = _post(http)
            wait_until(lambda: http.get(f"/v1/jobs/{job_id}").json()["state"] == "succeeded", what="the poll")
            plain = backend.send_task("ml.predict", kwargs={"model": "echo", "input": [1, {}]}, queue="ml")
            assert plain.get(timeout=20) == [1, {}]
            inspect = control.control.inspect(timeout=5, limit=1)
            assert list(inspect.ping().values()) == [{"ok": "pong"}]
            told = f"{inspect.conf()} {inspect.stats()}"
            assert "priority_steps" in told
            assert "BatchPool" in told
            if url.startswith("rediss"):
                with flower_process(url, models) as flower:
                    lengths = flower.get("/api/queues/length").json()["active_queues"]
                    assert {"name": "ml.echo.1", "messages": 0} in lengths
                    told += flower.get("/api/workers").text
            # The safety tick alone would make these wait half a second in the mean.
            waits = sorted(queue_ms(http) for _ in range(10))
            assert waits[7] < 250, f"queue_ms {waits}"
        assert store.hlen(keys.UNACKED) == store.zcard(keys.LEASES) == 0
    close_celery(backend)
    close_celery(control)
    store.close()
    said = told + "".join(capfd.readouterr())
    assert "s3cret" not in said
    assert WATCHWORD not in said


@pytest.mark.slow
def test_how_soon_an_idle_worker_wakes(
    url: str, tmp_path: Path, request: pytest.FixtureRequest, record_property: Callable[[str, Any], None]
) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(MODELS)
    with worker(url, models), api(url, models) as at, httpx.Client(base_url=at, timeout=60) as http:
        queue_ms(http)
        begun = time.monotonic()
        waits = sorted(queue_ms(http) for _ in range(200))
        whole_ms = (time.monotonic() - begun) * 1000 / 200
    told = {"p50_ms": waits[100], "p95_ms": waits[190], "a whole call, mean, ms": round(whole_ms, 1)}
    print(request.node.callspec.id, told)  # noqa: T201 - a figure, with `pytest -s`
    record_property("wake", told)
    assert waits[190] < 250


def _post(http: httpx.Client, **body: Any) -> str:
    answer = http.post("/v1/jobs", json={"model": "echo", "input": 1} | body)
    assert answer.status_code == 202
    job_id: str = answer.json()["id"]
    return job_id
