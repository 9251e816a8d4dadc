"""Changing the models over HTTP: what is refused and how, what a rollout waits for, and that all API processes switch
at the same moment."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis

from shared import keys
from shared.model_spec import ModelSpec
from tests.api_stack import Api, Hands, serving, settings, until


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path)) as running:
        yield running


async def call(api: Api, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
    return await api.client.request(method, f"/v1/models{path}", json=body, **more)


def says(store: redis.Redis, worker: str, ref: str, spec: ModelSpec, **more: Any) -> None:
    """A worker's sign of life, and its card of one version."""
    sign = {"process": f"p-{worker}", "worker": worker, "refs": [ref], "state": "ready", "serves": []}
    known = store.get(f"{keys.WORKER}p-{worker}")
    if known:
        sign["refs"] = [*orjson.loads(known)["refs"], ref]  # type: ignore[arg-type]
    store.set(f"{keys.WORKER}p-{worker}", orjson.dumps(sign), ex=60)
    store.zadd(keys.WORKERS, {f"p-{worker}": 1})
    store.expire(keys.WORKERS, 60)
    model, version = ref.split("@")
    card = {"worker": worker, "model": model, "version": version, "state": "ready", "build": spec.build(version)}
    card |= {"loaded": True, "limits": {"max_batch_size": 1}, "failed_batches": 0} | more
    store.set(keys.card_key(ref, worker), orjson.dumps(card), ex=60)


@pytest.mark.parametrize(
    ("asked", "status", "code", "told"),
    [
        (("PUT", "/none/versions/1", {}), 404, "model_not_found", "no model 'none'"),
        (("PUT", "/echo/versions/a b", {}), 422, "invalid_input", "'a b' is no name of a version"),
        (("PUT", "/echo/versions/2", {"dtype": "float8"}), 422, "invalid_input", "/dtype: Input should be"),
        (("PUT", "/echo/versions/2", []), 422, "invalid_input", ": Input should be"),
        (("PUT", "/bert/versions/1", {"source": "other"}), 409, "version_exists", "give the new one a name of its own"),
        (("PUT", "/echo/versions/2?replace=maybe", {}), 400, "bad_request", "replace must be true or false"),
        (("DELETE", "/bert/versions/1", None), 409, "version_in_use", "bert@1 has traffic"),
        (("DELETE", "/bert/versions/2", None), 409, "version_in_use", "an alias names bert@2"),
        (("DELETE", "/bert/versions/9", None), 404, "model_not_found", "it has 1, 2"),
        (("DELETE", "/none", None), 404, "model_not_found", "no model 'none'"),
        (("PUT", "/bert/traffic", {"traffic": {"9": 1}}), 422, "invalid_input", "traffic names version '9'"),
        (("PUT", "/bert/traffic", {"traffic": {"1": -1}}), 422, "invalid_input", "must not be negative"),
        (
            ("PUT", "/bert/traffic", {"traffic": {}}),
            422,
            "invalid_input",
            "/traffic: Dictionary should have at least 1",
        ),
        (("PUT", "/bert/traffic", {"weights": {"1": 1}}), 422, "invalid_input", "/traffic: Field required"),
        (("POST", "/bert/rollback", None), 409, "nothing_to_roll_back", "bert has not been changed"),
        (("PUT", "/new", {"task": "nonsense", "versions": {"1": {}}}), 422, "invalid_input", "unknown task 'nonsense'"),
        (("PUT", "/new", {"versions": {"1": {}}}), 422, "invalid_input", "give either task or handler"),
        (("PUT", "/a b", {"task": "echo", "versions": {"1": {}}}), 422, "invalid_input", "is no name of a model"),
        (("PUT", "", {"models": {}}), 422, "invalid_input", "/models: Dictionary should have at least 1"),
        (("PUT", "", {"models": {"m": {"task": "echo"}}}), 422, "invalid_input", "/models/m/versions: Field required"),
    ],
)
async def test_what_is_wrong_is_refused_and_changes_nothing(
    api: Api, asked: tuple[str, str, Any], status: int, code: str, told: str
) -> None:
    before = api.parts.registry.known
    answer = await call(api, *asked)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    places = [f"{fault['pointer']}: {fault['message']}" for fault in problem.get("errors", [])]
    assert told in " ".join([problem["detail"], *places])
    assert await api.parts.registry.refresh() is before


async def test_only_from_this_machine(api: Api) -> None:
    for method, path in (("PUT", ""), ("PUT", "/echo/versions/2"), ("POST", "/echo/rollback"), ("DELETE", "/echo")):
        refused = await call(api, method, path, {}, headers={"Host": "example.com"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), path


async def test_only_what_was_read_is_changed(api: Api) -> None:
    etag = (await api.client.get("/v1/models")).headers["etag"]
    body = {"traffic": {"1": 1, "2": 1}}
    tried = await call(api, "PUT", "/bert/traffic", body, params={"dry_run": "true"}, headers={"If-Match": etag})
    assert (tried.status_code, tried.headers["etag"]) == (200, etag)
    assert {change["path"] for change in tried.json()["changes"]} == {"bert.traffic.2"}
    assert (await api.client.get("/v1/models/bert")).json()["traffic"] == {"1": 1.0}
    done = await call(api, "PUT", "/bert/traffic", body, headers={"If-Match": etag})
    assert (done.status_code, done.json()["generation"], done.headers["etag"] != etag) == (200, 2, True)
    for query in ({}, {"dry_run": "true"}):
        late = await call(api, "PUT", "/bert/traffic", {"traffic": {"1": 1}}, params=query, headers={"If-Match": etag})
        assert (late.status_code, late.json()["code"]) == (412, "precondition_failed")
    assert (await api.client.get("/v1/models/bert")).json()["traffic"] == {"1": 1.0, "2": 1.0}


async def test_of_many_changes_at_once_none_is_lost(api: Api, redis_url: str, tmp_path: Path) -> None:
    async with serving(settings(redis_url, tmp_path)) as other:
        names = [f"v{number}" for number in range(12)]
        answers = await asyncio.gather(
            *(
                call(one, "PUT", f"/made-{name}", {"task": "echo", "versions": {"1": {}}})
                for one, name in zip([api, other] * 6, names, strict=True)
            )
        )
        assert {answer.status_code for answer in answers} == {202}
        for one in (api, other):
            body = (await one.client.get("/v1/models")).json()
            assert {rollout["model"] for rollout in body["rollouts"]} == {f"made-{name}" for name in names}
            assert not {entry["id"] for entry in body["data"]} & {f"made-{name}" for name in names}
        assert api.parts.registry.known.generation == 13


async def test_a_rollout_waits_for_every_worker_that_takes_the_model(api: Api, store: redis.Redis) -> None:
    spec = ModelSpec.model_validate({"task": "echo", "versions": {"1": {}, "2": {"source": "new"}}})
    begun = await call(api, "PUT", "/echo/versions/2", {"source": "new"}, params={"replace": "true"})
    assert begun.status_code == 202
    (told,) = begun.json()["rollouts"]
    assert told == {"model": "echo", "state": "no_worker", "versions": ["2"], "workers": 0, "ready": 0, "failures": []}
    says(store, "w1", "echo@2", spec)
    says(store, "w2", "echo@1", spec)
    await until(lambda: _rollout(api, workers=2, ready=1, state="loading"), "one of two has it")
    says(store, "w2", "echo@2", spec, build="another", state="ready")
    says(store, "w3", "echo@2", spec, loaded=False, state="failed", error="no")
    await until(lambda: _rollout(api, workers=3, ready=1, state="failed"), "one cannot")
    assert (await api.client.get("/v1/models/echo")).json()["traffic"] == {"1": 1.0}
    says(store, "w3", "echo@2", spec)
    says(store, "w2", "echo@2", spec, build="old", coming={"build": spec.build("2"), "loaded": True})
    await until(lambda: _switched(api, {"2": 1.0}), "all have it")
    store.delete(*store.scan_iter("ml:worker*"), *store.scan_iter("ml:card:*"))


async def _rollout(api: Api, **told: Any) -> bool:
    found = (await api.client.get("/v1/models/echo")).json()["rollout"]
    return found is not None and found | told == found


async def _switched(api: Api, traffic: dict[str, float]) -> bool:
    entry = (await api.client.get("/v1/models/echo")).json()
    return entry["rollout"] is None and entry["traffic"] == traffic


async def test_no_process_uses_an_old_choice(api: Api, redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    """The other API has not looked since; it finds out with the submit itself."""
    async with serving(settings(redis_url, tmp_path)) as other:
        for periodic in other.parts.periodic:
            await periodic.stop()
        await call(api, "PUT", "/bert/traffic", {"traffic": {"2": 1}})
        assert other.parts.catalog.spec("bert").weights() == {"1": 1.0}
        job = (await other.client.post("/v1/jobs", json={"model": "bert", "input": {"text": "x"}})).json()
        assert job["version"] == "2"
        await call(api, "DELETE", "/echo")
        gone = await other.client.post("/v1/jobs", json={"model": "echo", "input": 1})
        assert (gone.status_code, gone.json()["code"]) == (404, "model_not_found")
        await call(api, "PUT", "/bert/traffic", {"traffic": {"1": 1}})
        big = {"model": "bert", "input": {"text": "x" * 50_000}}
        keyed = await other.client.post("/v1/jobs", json=big, headers={"Idempotency-Key": "k"})
        assert (keyed.status_code, keyed.json()["version"]) == (202, "1")
        again = await other.client.post("/v1/jobs", json=big, headers={"Idempotency-Key": "k"})
        assert again.json()["id"] == keyed.json()["id"]
    payloads = {key.decode().split(":")[2] for key in store.scan_iter(keys.PAYLOAD + "*")}
    assert payloads == {keyed.json()["id"]}, "what was refused as outdated has left nothing"


async def test_a_version_on_its_way_out_is_kept_while_it_has_jobs(api: Api, hands: Hands, store: redis.Redis) -> None:
    await api.client.post("/v1/jobs", json={"model": "echo", "input": 1})
    await call(api, "DELETE", "/echo")
    for _ in range(2):
        await api.parts.periodic[1]._step()
    assert list(api.parts.registry.known.retiring) == ["echo@1"]
    assert 'ml_queue_depth{model="echo",version="1"} 1.0' in (await api.client.get("/metrics")).text
    await hands.finish((await hands.take())[0])
    await until(lambda: not api.parts.registry.known.retiring, "its jobs have ended")
    await until(lambda: not store.exists(f"{keys.COUNTERS}echo@1"), "and so are its counters")


async def test_an_api_without_redis_says_what_its_file_says(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with serving(settings(f"redis://127.0.0.1:{taken.getsockname()[1]}/0", tmp_path)) as alone:
            listed = await alone.client.get("/v1/models")
            assert [entry["id"] for entry in listed.json()["data"]] == ["bert", "cnn", "echo", "own", "tiny"]
            refused = await call(alone, "DELETE", "/echo")
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")


async def test_a_models_file_that_is_not_taken_in(api: Api, redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    """While workers live, a file in which a version has other contents changes nothing; a new version is a rollout."""
    spec = api.parts.catalog.spec("echo")
    says(store, "w1", "echo@1", spec)
    changed = "models: {echo: {task: echo, versions: {'1': {source: other}}}}"
    async with serving(settings(redis_url, tmp_path, changed)) as late:
        assert late.parts.catalog.spec("echo").versions["1"].source == ""
    added = "models: {echo: {task: echo, versions: {'2': {}}}}"
    async with serving(settings(redis_url, tmp_path, added)) as late:
        assert late.parts.catalog.spec("echo").weights() == {"1": 1.0}
        assert (await late.client.get("/v1/models/echo")).json()["rollout"]["versions"] == ["2"]
        assert (await late.client.get("/v1/models/bert")).status_code == 200, "what the file does not name stays"
    store.delete(*store.scan_iter("ml:worker*"), *store.scan_iter("ml:card:*"))
