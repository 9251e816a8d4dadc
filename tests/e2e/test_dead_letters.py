"""Poison, end to end: what kills workers or cannot be read is kept, looked at, and retried or dropped."""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys, messages
from tests.conftest import wait_until
from tests.processes import REPOSITORY, api, environment, worker
from tests.stock_celery import stock_app

pytestmark = pytest.mark.long

QUICK = {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5", "ML_MAX_ATTEMPTS": "1"}
ECHO = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL)


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """While this file is there, the model has a bug."""
    path = tmp_path / "bug"
    path.touch()
    return path


@pytest.fixture
def models(tmp_path: Path, flag: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(
        "models:\n"
        '  echo: {task: echo, versions: {"1": {}}}\n'
        f'  brittle: {{handler: "tests/e2e/handlers.py:Brittle", versions: {{"1": {{flag: {flag}}}}}}}\n'
    )
    return path


@pytest.fixture
def http(redis_url: str, models: Path) -> Iterator[httpx.Client]:
    """An API without a worker; whatever is longer than a few letters travels beside the message."""
    with api(redis_url, models, ML_INLINE_BYTES="20") as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def _ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}", params={"wait": 40}).json()
    return job


def _letters(http: httpx.Client, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get("/v1/dead", params=query).json()["letters"]
    return found


class Restarted:
    """A worker that is started again whenever it has died, as orchestrators do."""

    def __init__(self, http: httpx.Client, env: dict[str, str]) -> None:
        self._http, self._env = http, env
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def until_failed(self, job_id: str) -> dict[str, Any]:
        """The job, once it has failed; the worker that found out lives."""
        while (job := self._http.get(f"/v1/jobs/{job_id}", params={"wait": 0.2}).json())["state"] != "failed":
            if self.process is None or self.process.poll() is not None:
                self.starts += 1
                assert self.starts < 9
                self.process = subprocess.Popen([sys.executable, "-m", "worker"], env=self._env, cwd=REPOSITORY)
        assert self.process is not None
        assert self.process.poll() is None
        found: dict[str, Any] = job
        return found


@pytest.fixture
def restarted(http: httpx.Client, redis_url: str, models: Path) -> Iterator[Restarted]:
    found = Restarted(http, environment(redis_url, models, ML_WORKER_NAME="brittle", **QUICK))
    yield found
    if found.process is not None:
        found.process.terminate()
        found.process.wait(20)


def test_a_job_that_kills_is_retried_until_the_bug_is_fixed(
    http: httpx.Client, restarted: Restarted, store: redis.Redis, flag: Path
) -> None:
    note = {"text": "what was the matter with it " * 10, "deadly": True}
    first = http.post("/v1/jobs", json={"model": "brittle", "input": note, "labels": {"a": "b"}}).json()["id"]
    failed = restarted.until_failed(first)
    assert restarted.starts == 3, "one death in company, one alone, and one start that finds out"
    assert failed["error"]["code"] == "attempts_exhausted"
    (letter,) = _letters(http, reason="attempts_exhausted", model="brittle")
    assert (letter["job_id"], letter["crashes"], letter["attempts"]) == (first, 1, 2)
    assert letter["id"] == failed["letter"]
    shown = http.get(f"/v1/dead/{letter['id']}").json()
    assert (shown["obstacle"], shown["worker"], shown["labels"]) == (None, "brittle", {"a": "b"})
    assert [part["bytes"] for part in shown["payloads"]] == [shown["input_bytes"]]

    second = http.post(f"/v1/dead/{letter['id']}/retry").json()["id"]
    restarted.until_failed(second)
    assert restarted.starts == 4, "it ran alone from the start: one death of the worker that lived, one more start"
    (letter,) = _letters(http)
    assert (letter["job_id"], letter["crashes"], letter["attempts"]) == (second, 1, 1)

    flag.unlink()
    answer = http.post(f"/v1/dead/{letter['id']}/retry")
    assert answer.status_code == 202
    third = _ended(http, answer.json()["id"])
    assert (third["state"], third["output"], third["attempt"]) == ("succeeded", note, 1)
    assert (third["retried_from"], third["labels"]) == (second, {"a": "b"})
    assert store.hget(keys.JOB + third["id"], "solo") == b"1", "it ran alone"
    assert _letters(http) == []
    assert _ended(http, first) == failed | {"letter": None}, "the old outcome stands"
    assert list(store.scan_iter(keys.PAYLOAD + "*")) == []
    assert store.hlen(keys.UNACKED) == store.zcard(keys.LEASES) == 0
    assert restarted.starts == 4


def _pickled(queue: str) -> bytes:
    """What stock Celery with the pickle serializer sends."""
    message = json.loads(messages.build("pickled", queue=queue, priority=3, model="echo", version="1", input=1))
    del message["headers"]["ml"]
    body = pickle.dumps(((), {"model": "echo", "input": 1}, {"callbacks": None}))
    message["body"] = base64.b64encode(body).decode()
    message["content-type"], message["content-encoding"] = "application/x-python-serialize", "binary"
    return json.dumps(message).encode()


def _changed(tag: str, change: Callable[[dict[str, Any]], None], *, ours: bool) -> bytes:
    queue = "ml.echo.1" if ours else keys.INTAKE
    message = json.loads(messages.build(tag, queue=queue, priority=3, model="echo", version="1", input=1))
    if not ours:
        del message["headers"]["ml"]
    change(message)
    return json.dumps(message).encode()


def _body(*parts: Any) -> str:
    return base64.b64encode(json.dumps(parts).encode()).decode()


def _not_ours() -> list[bytes]:
    """Messages that say they are ours, and are not what our API writes."""
    good, embed = {"model": "echo", "version": "1", "input": 1, "parameters": None}, {"callbacks": None}
    changes: dict[str, Callable[[dict[str, Any]], None]] = {
        **{
            f"timeout-{n}": partial(_set_header, "ml_timeout_s", odd)
            for n, odd in enumerate(["5", -1, 0, [1], {}, True])
        },
        **{f"payloads-{n}": partial(_set_header, "ml_payloads", odd) for n, odd in enumerate(["a", [1], {"a": 1}])},
        "timeout-inf": lambda m: m["headers"].update(ml_timeout_s=float("inf")),
        "no-input": lambda m: m.update(body=_body([], {"model": "echo", "version": "1"}, embed)),
        "odd-model": lambda m: m.update(body=_body([], good | {"model": ["echo"]}, embed)),
        "odd-parameters": lambda m: m.update(body=_body([], good | {"parameters": [1]}, embed)),
    }
    return [_changed(tag, change, ours=True) for tag, change in changes.items()]


def _not_celerys() -> list[bytes]:
    """Messages of no Celery that we know."""
    changes: dict[str, Callable[[dict[str, Any]], None]] = {
        "no-id": lambda m: m["headers"].pop("id"),
        "no-task": lambda m: m["headers"].pop("task"),
        "one-part": lambda m: m.update(body=_body([])),
        "no-list": lambda m: m.update(body=base64.b64encode(b'"text"').decode()),
        "other-task": lambda m: m["headers"].update(task="os.system"),
        "no-json": lambda m: m.update(body=base64.b64encode(b"\xff\xfe{").decode()),
        "no-base64": lambda m: m.update(body="%%%"),
        "odd-limits": lambda m: m["headers"].update(timelimit={"hard": 1}),
    }
    return [_changed(tag, change, ours=False) for tag, change in changes.items()]


def _set_header(name: str, value: Any, message: dict[str, Any]) -> None:
    message["headers"][name] = value


@pytest.mark.parametrize(
    ("field", "header", "value"),
    [
        *[("time_limit", "timelimit", [odd, None]) for odd in ("5", -1, 0, {}, True, 1e308)],
        *[("expires", "expires", odd) for odd in ("soon", 5, ["now"])],
    ],
)
def test_an_odd_option_of_a_plain_producer_fails_its_job_and_names_itself(
    stack_store: redis.Redis, stack_server: EmbeddedServer, field: str, header: str, value: Any
) -> None:
    tag = str(uuid.uuid4())
    stack_store.lpush(keys.INTAKE, _changed(tag, partial(_set_header, header, value), ours=False))
    with stock_app(stack_server.url) as app:
        with pytest.raises(Exception, match=field) as failed:
            app.AsyncResult(tag).get(timeout=20)
        assert "invalid_input" in repr(failed.value) or failed.type.__name__ == "invalid_input"
        result = app.send_task("ml.predict", kwargs={"model": "echo", "input": 7}, queue="ml")
        assert result.get(timeout=20) == 7, "the worker serves on"


def test_what_only_lua_can_read_kills_no_worker(
    http: httpx.Client, redis_url: str, models: Path, store: redis.Redis
) -> None:
    good = messages.build("odd", queue="ml.echo.1", priority=3, model="echo", version="1", input=1)
    broken = json.loads(good)
    broken["properties"]["delivery_tag"], broken["body"] = "odd-2", "%"
    bare = json.loads(good)
    bare["properties"]["delivery_tag"], bare["headers"] = "odd-3", []
    store.lpush(ECHO, good.replace(b'"odd"', b'"odd", "x": NaN', 1), json.dumps(broken), json.dumps(bare))
    with worker(redis_url, models, "w1", **QUICK) as process:
        job = http.post("/v1/jobs", json={"model": "echo", "input": "on"}).json()["id"]
        assert _ended(http, job)["output"] == "on"
        wait_until(lambda: store.hlen(keys.UNACKED) == 0, what="nothing is held")
        assert process.poll() is None
    assert store.xlen(keys.DEAD) >= 1


def test_what_cannot_be_read_is_kept_and_dropped_and_the_worker_goes_on(
    http: httpx.Client, redis_url: str, models: Path, store: redis.Redis
) -> None:
    odd = http.post("/v1/jobs", json={"model": "echo", "input": 1}).json()["id"]
    message = json.loads(store.rpop(ECHO) or b"")
    message["headers"]["ml"] = "one"
    rejected = [json.dumps(message).encode(), *_not_ours()]
    foreign = [_pickled(keys.INTAKE), *_not_celerys()]
    unparsable = [pickle.dumps({"model": "echo"}), b"not json", b'{"no": "message"}']
    garbage = {ECHO: [*unparsable, *rejected], keys.INTAKE: [*foreign, b"\xff\xfe"]}
    total = len(garbage[ECHO]) + len(garbage[keys.INTAKE])
    with worker(redis_url, models, "w1", **QUICK) as process:
        for list_name, raws in garbage.items():
            store.lpush(list_name, *raws)
        jobs = [http.post("/v1/jobs", json={"model": "echo", "input": n}).json()["id"] for n in range(3)]
        with stock_app(redis_url) as app:
            plain = app.send_task("ml.predict", kwargs={"model": "echo", "input": 7}, queue="ml")
            assert plain.get(timeout=30) == 7
        assert [_ended(http, job)["output"] for job in jobs] == [0, 1, 2]
        wait_until(lambda: store.xlen(keys.DEAD) == total, what="a letter for each")
        found = _letters(http, limit="100")
        reasons = Counter(letter["reason"] for letter in found)
        assert reasons == {"rejected": len(rejected) + len(foreign), "unparsable": len(unparsable) + 1}
        assert Counter(letter["queue"] for letter in found) == {
            "ml": len(foreign) + 1,
            "ml.echo.1": total - len(foreign) - 1,
        }
        shown = [http.get(f"/v1/dead/{letter['id']}").json() for letter in found]
        raws = {
            base64.b64decode(one["message"]) if one["message_encoding"] == "base64" else one["message"].encode()
            for one in shown
        }
        assert raws == {raw for raws in garbage.values() for raw in raws}, "byte for byte"
        assert odd in [one["job_id"] for one in shown if one["arguments"]]
        assert not any(one["arguments"] for one in shown if one["message_encoding"] == "base64"), "nothing is unpickled"
        assert _ended(http, odd)["error"]["code"] == "model_unavailable"
        for one in shown:
            assert http.post(f"/v1/dead/{one['id']}/retry").status_code == 409
            assert http.delete(f"/v1/dead/{one['id']}").status_code == 204
        assert _letters(http) == []
        assert store.hlen(keys.UNACKED) == store.zcard(keys.LEASES) == 0
        assert store.llen(ECHO) == store.llen(keys.INTAKE) == 0, "nothing came back"
        job = http.post("/v1/jobs", json={"model": "echo", "input": "on"}).json()["id"]
        assert _ended(http, job)["output"] == "on"
        assert process.poll() is None
