"""The models change while they are served: nothing restarts, no call fails, and after the switch no job runs on the old
version."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from celery import Celery

from shared import keys
from shared.registry import Registry
from tests.conftest import wait_until
from tests.processes import api, worker
from tests.stock_celery import close_celery

pytestmark = pytest.mark.long

MODELS = """
models:
  toy:
    handler: tests/e2e/versioned.py:Versioned
    versions: {"1": {says: one, predict_ms: 5}}
    batch: {max_size: 8}
  echo: {task: echo, versions: {"1": {}}}
"""
QUICK = {"ML_HEARTBEAT_S": "0.5"}
TWO = {"says": "two", "predict_ms": 5}


@pytest.fixture
def http(redis_url: str, models: Path) -> Iterator[httpx.Client]:
    with api(redis_url, models) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def put(http: httpx.Client, path: str, body: Any = None, *, method: str = "PUT", **query: Any) -> dict[str, Any]:
    answer = http.request(method, f"/v1/models/{path}", json=body, params=query)
    assert answer.status_code in (200, 202), answer.text
    told: dict[str, Any] = answer.json()
    assert (answer.status_code == 202) == bool(told["rollouts"])
    return told


def toy(http: httpx.Client) -> dict[str, Any]:
    """As /v1/models tells it."""
    told: dict[str, Any] = http.get("/v1/models/toy").json()
    return told


def switched(http: httpx.Client) -> bool:
    return toy(http)["rollout"] is None


def served(http: httpx.Client) -> dict[str, list[str]]:
    """Version: the states on the workers."""
    return {one["version"]: [card["state"] for card in one["workers"]] for one in toy(http)["versions"]}


def say(http: httpx.Client, model: str = "toy", **more: Any) -> tuple[str, str]:
    """The version that answered, as told and as it says."""
    answer = http.post("/inference", json={"model_type": model, "data": {"n": 1}, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["version"], answer.json()["output"]["says"]


@dataclass
class Load:
    """What callers of several API processes saw."""

    faults: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    answers: collections.Counter[str] = field(default_factory=collections.Counter)

    def run(self, url: str, stop: threading.Event, waits: bool) -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            while not stop.is_set():
                try:
                    self._call(http, waits)
                except Exception as error:
                    self.faults.append(repr(error))

    def _call(self, http: httpx.Client, waits: bool) -> None:
        if waits:
            answer = http.post("/inference", json={"model_type": "toy", "data": {"n": 1}})
            if answer.status_code != 200:
                self.faults.append(answer.text)
            else:
                self.jobs.append(answer.json()["job_id"])
                self.answers[answer.json()["output"]["says"]] += 1
        else:
            answer = http.post("/v1/jobs", json={"model": "toy", "input": {"n": 1}}, headers={"Prefer": "wait=30"})
            if answer.status_code != 200 or answer.json()["state"] != "succeeded":
                self.faults.append(answer.text)
            else:
                self.jobs.append(answer.json()["id"])
                self.answers[answer.json()["output"]["says"]] += 1


@contextmanager
def load(urls: list[str]) -> Iterator[Load]:
    """Four callers on each API."""
    seen, stop = Load(), threading.Event()
    with ThreadPoolExecutor(len(urls) * 4) as pool:
        for url in urls:
            for number in range(4):
                pool.submit(seen.run, url, stop, number % 2 == 0)
        try:
            yield seen
        finally:
            stop.set()


def registry(store: redis.Redis) -> Registry:
    document: Any = store.hget(keys.REGISTRY, "document")
    return Registry.model_validate_json(document)


def test_an_update_under_load_and_its_rollback(
    http: httpx.Client, redis_url: str, models: Path, store: redis.Redis
) -> None:
    with (
        worker(redis_url, models, "w1", **QUICK) as first,
        worker(redis_url, models, "w2", **QUICK) as second,
        api(redis_url, models) as other,
        load([str(http.base_url), other]) as seen,
    ):
        wait_until(lambda: seen.answers["one"] > 50, what="load")
        for new, replaced, path, body in (
            ("two", "1", "toy/versions/2", TWO),
            ("one", "2", "toy/rollback", None),
        ):
            method, query = ("PUT", {"replace": True}) if body else ("POST", {})
            assert put(http, path, body, method=method, **query)["rollouts"][0]["state"] in ("loading", "ready")
            wait_until(lambda: switched(http), what=f"the traffic goes to {new}")
            seconds, micros = store.time()  # type: ignore[misc]
            switched_at = seconds + micros / 1e6
            before = seen.answers[new]
            wait_until(lambda new=new, before=before: seen.answers[new] > before + 100, what=f"{new} answers")
            wait_until(lambda: not registry(store).retiring, what="the old jobs have ended")
            gone = f"{keys.CARD}toy@{replaced}:*"
            wait_until(lambda gone=gone: not list(store.scan_iter(gone)), what="the old version is unloaded")
            records = [store.hgetall(keys.JOB + job_id) for job_id in list(seen.jobs)]
            late = [
                record[b"version"].decode()  # type: ignore[index]
                for record in records
                if int(record[b"created_at"]) > switched_at * 1000  # type: ignore[index]
            ]
            assert late
            assert replaced not in late, "no job after the switch runs on the old version"
        assert (first.poll(), second.poll()) == (None, None)
    assert seen.faults == []
    assert store.hlen(keys.UNACKED) == 0
    assert not list(store.scan_iter(f"{keys.COUNTERS}toy@2"))


def test_a_version_that_does_not_load_changes_nothing(
    http: httpx.Client, redis_url: str, models: Path, tmp_path: Path, store: redis.Redis
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    with worker(redis_url, models, "w1", **QUICK) as process, load([str(http.base_url)]) as seen:
        put(http, "toy/versions/2", TWO | {"broken": str(broken)}, replace=True)
        wait_until(lambda: toy(http)["rollout"]["state"] == "failed", what="it is told")
        told = toy(http)["rollout"]
        assert told["failures"] == [{"version": "2", "worker": "w1", "error": "OSError: no weights here"}]
        assert (told["versions"], toy(http)["traffic"]) == (["2"], {"1": 1.0})
        pinned = http.post("/v1/jobs", json={"model": "toy@2", "input": {}})
        assert (pinned.status_code, pinned.json()["code"]) == (404, "model_not_found")
        with worker(redis_url, models, "late", **QUICK):
            wait_until(
                lambda: toy(http)["rollout"]["workers"] == 2, what="a worker that starts later is ready all the same"
            )
            assert set(served(http)["1"]) == {"ready"}
            wait_until(lambda: len(toy(http)["rollout"]["failures"]) == 2, what="and has the same to say")
        count = seen.answers["one"]
        wait_until(lambda: seen.answers["one"] > count + 50, what="the old version serves on")
        put(http, "toy/rollback", method="POST")
        assert switched(http)
        wait_until(lambda: not list(store.scan_iter(f"{keys.CARD}toy@2:*")), what="nobody tries it any more")
        put(http, "bad", {"handler": "nowhere.py:Nobody", "versions": {"1": {}}})
        with worker(redis_url, models, "later", **QUICK):
            assert set(served(http)["1"]) == {"ready"}, "a new model that does not load keeps no worker from its start"
        (told,) = http.get("/v1/models").json()["rollouts"]
        assert "no such file" in told["failures"][0]["error"]
        assert (process.poll(), seen.faults, set(seen.answers)) == (None, [], {"one"})


def test_later_replicas_and_plain_producers_get_the_same(
    http: httpx.Client, redis_url: str, models: Path, store: redis.Redis
) -> None:
    with worker(redis_url, models, "w1", **QUICK):
        put(http, "toy/versions/2", TWO, replace=True)
        wait_until(lambda: switched(http) and not registry(store).retiring, what="switched")
    with worker(redis_url, models, "w2", **QUICK):
        wait_until(lambda: served(http) == {"2": ["ready"]}, what="whatever its models file says")
        assert say(http) == ("2", "two")
        plain = Celery(broker=redis_url, backend=redis_url)
        sent = plain.send_task("ml.predict", kwargs={"model": "toy", "input": {"n": 3}}, queue="ml")
        assert sent.get(timeout=20) == {"n": 3, "says": "two"}
        with api(redis_url, models) as fresh, httpx.Client(base_url=fresh) as new:
            assert say(new) == ("2", "two")
        put(http, "toy/versions/3", TWO | {"says": "three"})
        wait_until(lambda: switched(http), what="it is beside the other")
        sent = plain.send_task("ml.predict", kwargs={"model": "toy", "version": "3", "input": {}}, queue="ml")
        assert sent.get(timeout=20)["says"] == "three"
        assert say(http) == ("2", "two"), "a new version has no traffic of itself"
        put(http, "toy/traffic", {"traffic": {"2": 0, "3": 5}})
        assert {say(http) for _ in range(5)} == {("3", "three")}, "at once"
        close_celery(plain)


def test_what_the_memory_does_not_hold_beside_the_old_takes_its_turn(
    http: httpx.Client, redis_url: str, models: Path, store: redis.Redis
) -> None:
    """Room for one of the two. Nothing fails and nothing is lost; jobs wait while the models change places."""
    large = {"says": "one", "mb": 150, "predict_ms": 5}
    models.write_text(MODELS.replace("{says: one, predict_ms: 5}", "{says: one, mb: 150, predict_ms: 5}"))
    with (
        api(redis_url, models) as url,
        httpx.Client(base_url=url, timeout=60) as own,
        worker(redis_url, models, "w1", ML_MODEL_MEMORY="220MB", **QUICK) as process,
        load([url]) as seen,
    ):
        wait_until(lambda: seen.answers["one"] > 20, what="load")
        put(own, "toy/versions/2", large | {"says": "two"}, replace=True)
        wait_until(lambda: switched(own), timeout_s=60, what="the new one has been loaded")
        wait_until(lambda: seen.answers["two"] > 20, timeout_s=60, what="the new one answers")
        wait_until(lambda: not registry(store).retiring, timeout_s=60, what="the old one's jobs have ended")
        wait_until(lambda: served(own) == {"2": ["ready"]}, what="and only the new one is left")
        assert (process.poll(), seen.faults) == (None, [])


def test_workers_are_told_at_once(http: httpx.Client, redis_url: str, models: Path) -> None:
    """Not at their next heartbeat."""
    with worker(redis_url, models, "w1", ML_HEARTBEAT_S="40", ML_LEASE_S="160"):
        put(http, "toy/versions/2", TWO, replace=True)
        wait_until(lambda: switched(http), timeout_s=15, what="switched long before")


def test_what_can_never_fit_is_told_and_the_old_stays(http: httpx.Client, redis_url: str, models: Path) -> None:
    with worker(redis_url, models, "w1", ML_MODEL_MEMORY="220MB", **QUICK):
        put(http, "toy/versions/2", TWO | {"mb": 400}, replace=True)
        wait_until(lambda: toy(http)["rollout"]["state"] == "failed", timeout_s=60, what="it is told")
        assert "more than ML_MODEL_MEMORY leaves" in toy(http)["rollout"]["failures"][0]["error"]
        assert say(http) == ("1", "one")


def test_other_settings_of_a_model_are_loaded_beside_it(http: httpx.Client, redis_url: str, models: Path) -> None:
    """Its batches, here: the same version, built anew."""
    spec = {
        "handler": "tests/e2e/versioned.py:Versioned",
        "versions": {"1": {"says": "one", "predict_ms": 5}},
        "batch": {"max_size": 3},
        "limits": {"queue": 77},
    }
    with worker(redis_url, models, "w1", **QUICK) as process, load([str(http.base_url)]) as seen:
        told = put(http, "toy", spec)
        assert {change["path"] for change in told["changes"]} == {"toy.batch.max_size", "toy.limits.queue"}
        wait_until(lambda: switched(http), what="built anew")
        assert toy(http)["limits"]["queue"] == 77
        metrics = http.get("/metrics").text
        assert 'ml_max_batch_size{model="toy",version="1",worker="w1"} 3.0' in metrics
        assert put(http, "toy", spec)["changes"] == [], "said again it changes nothing"
        assert (process.poll(), seen.faults) == (None, [])


def test_models_come_and_go(http: httpx.Client, redis_url: str, models: Path, store: redis.Redis) -> None:
    with worker(redis_url, models, "w1", **QUICK):
        (told,) = put(http, "more", {"task": "echo", "versions": {"a": {}}})["rollouts"]
        assert (told["model"], told["versions"], told["workers"]) == ("more", ["a"], 1)
        wait_until(lambda: http.get("/v1/models/more").status_code == 200, what="it is there")
        job = http.post("/v1/jobs", json={"model": "more", "input": 7}, headers={"Prefer": "wait=20"}).json()
        assert (job["state"], job["output"]) == ("succeeded", 7)
        put(http, "more", method="DELETE")
        assert http.post("/v1/jobs", json={"model": "more", "input": 7}).status_code == 404
        wait_until(lambda: not list(store.scan_iter(f"{keys.CARD}more@*")), what="it is gone")
        bindings = {key.decode() for key in store.scan_iter("_kombu.binding.ml.*")}
        assert "_kombu.binding.ml.toy.1" in bindings


def test_a_registry_that_redis_has_lost_comes_back(
    http: httpx.Client, redis_url: str, models: Path, store: redis.Redis
) -> None:
    with worker(redis_url, models, "w1", **QUICK):
        put(http, "toy/versions/2", TWO, replace=True)
        wait_until(lambda: switched(http) and not registry(store).retiring, what="switched")
        store.flushall()
        wait_until(lambda: store.exists(keys.REGISTRY), what="somebody puts it back")
        assert list(registry(store).models["toy"].spec.versions) == ["2"]
        assert say(http) == ("2", "two")


def test_a_worker_of_some_models(http: httpx.Client, redis_url: str, models: Path) -> None:
    with (
        worker(redis_url, models, "w1", ML_MODELS="echo", **QUICK),
        worker(redis_url, models, "w2", ML_MODELS="toy", **QUICK),
    ):
        wait_until(lambda: [card["worker"] for one in toy(http)["versions"] for card in one["workers"]] == ["w2"])
        put(http, "toy/versions/2", TWO, replace=True)
        wait_until(lambda: switched(http), what="the one that takes it is enough")
        assert say(http) == ("2", "two")
