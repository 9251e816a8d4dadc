"""API keys on a real API: who may what, whose jobs are whose, limits, rotation, and nothing open by accident."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis
from fastapi.routing import APIRoute

from api.auth import OPEN
from api.keys import KeyService, today
from api.routes import console
from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from shared.rates import Rates
from shared.types import Outcome, State
from tests.api_stack import MODELS, Api, Hands, serving, settings, until

LIMITED = (
    MODELS
    + """
  paced: {task: echo, versions: {"1": {}, "2": {}}, traffic: {"1": 1, "2": 1},
          limits: {per_key: {requests: 3/minute, concurrent: 2}}}
  roomy: {task: echo, versions: {"1": {}}, limits: {queue: 6}}
"""
)


@pytest.fixture
async def api(redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    asked = settings(redis_url, tmp_path, models=LIMITED, auth="on", inference_wait_s=10)
    store = redis.Redis.from_url(redis_url)
    store.hset(keys.KEYS, digest("the-admins"), ApiKey(name="admin", scopes=frozenset({Scope.ADMIN})).model_dump_json())
    async with serving(asked) as running:
        yield running
    store.close()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


ADMIN = bearer("the-admins")


async def make(api: Api, **key: Any) -> tuple[dict[str, str], str]:
    """Headers and id of a new key."""
    answer = await api.client.post("/v1/keys", json={"name": "test"} | key, headers=ADMIN)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return bearer(answer.json()["secret"]), answer.json()["id"]


async def submit(api: Api, headers: dict[str, str], model: str = "echo", value: Any = 1, **more: str) -> httpx.Response:
    return await api.client.post("/v1/jobs", json={"model": model, "input": value}, headers=headers | more)


async def test_nothing_is_open_by_accident(api: Api) -> None:
    """Every route, without a key, with a wrong one, and with one of no use for it."""
    poor, _ = await make(api, scopes=["metrics"])
    faces = [face.original_router for face in api.app.routes if hasattr(face, "original_router")]
    routes = [route for face in faces for route in face.routes]
    paths = [(route.path, route.methods or ()) for route in routes if isinstance(route, APIRoute)]
    assert len(paths) == len(routes) > 20
    are_open = OPEN | console.paths()
    for template, methods in paths:
        path = re.sub(r"\{[^}]*\}", "x", template)
        for method in methods:
            bare = await api.client.request(method, path)
            assert (bare.status_code != 401) == (path in are_open), (method, path)
            if path in are_open:
                continue
            assert bare.headers["www-authenticate"] == "Bearer"
            assert "An API key is needed" in bare.text, "in whatever shape the face's clients read"
            for wrong in ("nobodys", "", "x" * 10_000, "\xff"):
                answer = await api.client.request(method, path, headers={"X-API-Key": wrong.encode("latin-1")})
                assert answer.status_code == 401, (method, path, wrong[:10])
            async with api.client.stream(method, path, headers=poor) as forbidden:  # one of them never ends
                useful = path.startswith("/metrics") or path == "/v1/watch"
                assert (forbidden.status_code == 403) == (not useful), (method, path)


async def test_an_unknown_path_needs_a_key_too(api: Api) -> None:
    assert (await api.client.get("/nowhere")).status_code == 401
    assert (await api.client.get("/nowhere", headers=ADMIN)).status_code == 404


async def test_health_tells_little_without_a_key(api: Api) -> None:
    assert (await api.client.get("/health")).json() == {"status": "ok"}
    assert (await api.client.get("/health", headers=bearer("wrong"))).json() == {"status": "ok"}
    assert "models" in (await api.client.get("/health", headers=ADMIN)).json()


async def test_scopes(api: Api) -> None:
    submits, _ = await make(api, scopes=["submit"])
    reads, _ = await make(api, scopes=["read"])
    job = await submit(api, submits)
    assert job.status_code == 202
    assert (await api.client.get(f"/v1/jobs/{job.json()['id']}", headers=submits)).status_code == 403
    assert (await submit(api, reads)).status_code == 403
    assert (await api.client.get("/v1/models", headers=reads)).status_code == 200
    assert (await api.client.get("/v1/keys", headers=reads)).status_code == 403
    assert (await api.client.get("/metrics", headers=reads)).status_code == 403
    both = {"X-API-Key": submits["Authorization"].removeprefix("Bearer ")}
    assert (await submit(api, both)).status_code == 202


async def test_a_job_is_its_keys_alone(api: Api, hands: Hands) -> None:
    mine, _ = await make(api)
    others, _ = await make(api)
    job = (await submit(api, mine, **{"Idempotency-Key": "k"})).json()["id"]
    for headers in (others, ADMIN):
        for method, path in (("GET", ""), ("GET", "?wait=5"), ("DELETE", "")):
            answer = await api.client.request(method, f"/v1/jobs/{job}{path}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    assert (await api.client.get(f"/v1/jobs/{job}", headers=mine)).json()["state"] == "queued", "nobody canceled it"
    again = await submit(api, mine, **{"Idempotency-Key": "k"})
    assert again.json()["id"] == job
    theirs = await submit(api, others, **{"Idempotency-Key": "k"})
    assert (theirs.status_code, theirs.json()["id"] == job) == (202, False), "a key's idempotency keys are its own"
    for taken in await hands.take(2):
        await hands.finish(taken)
    assert (await api.client.get(f"/v1/jobs/{job}?wait=5", headers=mine)).json()["output"] == 1


async def test_models_of_a_key(api: Api) -> None:
    mine, _ = await make(api, models=["echo"])
    assert [model["id"] for model in (await api.client.get("/v1/models", headers=mine)).json()["data"]] == ["echo"]
    assert (await api.client.get("/v1/models/bert", headers=mine)).status_code == 404
    assert (await api.client.get("/v1/models/echo@1", headers=mine)).status_code == 200
    for name in ("bert", "bert@1", "nothing"):
        refused = await submit(api, mine, name)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert "echo" in refused.json()["detail"]
    assert (await submit(api, mine, "echo@1")).status_code == 202
    alone = await api.client.post("/v1/jobs", json={"input": 1}, headers=mine)
    assert (alone.status_code, alone.json()["model"]) == (202, "echo"), "the only model that it knows"


async def test_rotation_keeps_the_jobs_and_revocation_ends_all(api: Api) -> None:
    mine, key_id = await make(api)
    job = (await submit(api, mine)).json()["id"]
    rotated = await api.client.post(f"/v1/keys/{key_id}/rotate", json={"grace_s": 3600}, headers=ADMIN)
    fresh = bearer(rotated.json()["secret"])
    for headers in (mine, fresh):
        assert (await api.client.get(f"/v1/jobs/{job}", headers=headers)).status_code == 200
    rotated = await api.client.post(f"/v1/keys/{key_id}/rotate", json={"grace_s": 0}, headers=ADMIN)
    newest = bearer(rotated.json()["secret"])

    async def ended(headers: dict[str, str]) -> bool:
        return (await api.client.get(f"/v1/jobs/{job}", headers=headers)).status_code == 401

    await until(lambda: ended(mine), "the first secret ends")
    await until(lambda: ended(fresh), "the second ends")
    assert (await api.client.get(f"/v1/jobs/{job}", headers=newest)).status_code == 200
    listed = (await api.client.get("/v1/keys", headers=ADMIN)).json()["data"]
    assert [key["expired"] for key in listed if key["id"] == key_id] == [False]
    assert "secret" not in orjson.dumps(listed).decode()
    assert (await api.client.delete(f"/v1/keys/{key_id}", headers=ADMIN)).status_code == 204
    await until(lambda: ended(newest), "a revoked key ends")
    assert (await api.client.delete(f"/v1/keys/{key_id}", headers=ADMIN)).status_code == 404


async def test_an_expired_key_opens_nothing(api: Api) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    mine, key_id = await make(api, expires_at=past)
    assert (await submit(api, mine)).status_code == 401
    listed = (await api.client.get("/v1/keys", headers=ADMIN)).json()["data"]
    assert [key["expired"] for key in listed if key["id"] == key_id] == [True]


async def test_the_secret_is_stored_nowhere(api: Api, store: redis.Redis) -> None:
    mine, _ = await make(api)
    await submit(api, mine)
    secret = mine["Authorization"].removeprefix("Bearer ").encode()
    assert len(secret) >= 43, "256 bits"
    for key in store.scan_iter(count=1000):
        assert secret not in store.dump(key), key


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/name"),
        ({"name": "x", "scopes": ["root"]}, "/scopes/0"),
        ({"name": "x", "weight": 0}, "/weight"),
        ({"name": "x", "limits": {"requests": "often"}}, "/limits/requests"),
        ({"name": "x", "limits": {"concurrent": 0}}, "/limits/concurrent"),
        ({"name": "x", "expires_at": "tomorrow"}, "/expires_at"),
        ({"name": "x", "secret": "mine"}, "/secret"),
    ],
)
async def test_a_bad_key_is_refused_by_its_field(api: Api, body: dict[str, Any], pointer: str) -> None:
    answer = await api.client.post("/v1/keys", json=body, headers=ADMIN)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


# As huggingface_hub and OpenAI's SDK read them.
_RATE_LIMIT = re.compile(r'"(?P<name>\w+)"\s*;\s*r=(?P<left>\d+)\s*;\s*t=(?P<reset>\d+)')
_POLICY = re.compile(r'"(?P<name>\w+)"\s*;\s*q=(?P<quota>\d+)\s*;\s*w=(?P<window>\d+)')


async def test_rate_limits_tell_and_refuse(api: Api) -> None:
    mine, _ = await make(api, limits={"requests": "3/hour", "items": "10/hour", "bytes": "1KB/hour"})
    first = await submit(api, mine, value=[1, 2])
    told = {found["name"]: int(found["left"]) for found in _RATE_LIMIT.finditer(first.headers["ratelimit"])}
    assert told == {"requests": 2, "items": 9, "bytes": 995}, "an echo job is one item whatever it holds"
    policies = {found["name"]: found["quota"] for found in _POLICY.finditer(first.headers["ratelimit-policy"])}
    assert policies == {"requests": "3", "items": "10", "bytes": "1000"}
    assert 'qu="content-bytes"' in first.headers["ratelimit-policy"]
    assert [(await submit(api, mine)).status_code for _ in range(2)] == [202, 202]
    refused = await submit(api, mine)
    body = refused.json()
    assert (refused.status_code, body["code"], body["violated-policies"]) == (429, "rate_limited", ["requests"])
    assert body["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert _RATE_LIMIT.search(refused.headers["ratelimit"])["left"] == "0"  # type: ignore[index]
    others, _ = await make(api)
    other = await submit(api, others)
    assert (other.status_code, "ratelimit" in other.headers) == (202, False), "another key has its own"
    assert (await api.client.get("/v1/models", headers=mine)).status_code == 200, "reading is no submit"


async def test_items_and_bytes_are_counted_and_what_never_fits_is_413(api: Api) -> None:
    mine, _ = await make(api, limits={"items": "10/hour"})
    texts = ["a"] * 6
    assert (await submit(api, mine, "bert", {"texts": texts})).status_code == 202
    over = await submit(api, mine, "bert", {"texts": texts})
    assert (over.status_code, over.json()["violated-policies"]) == (429, ["items"])
    assert (await submit(api, mine, "bert", {"texts": texts[:4]})).status_code == 202
    never = await submit(api, mine, "bert", {"texts": ["a"] * 11})
    assert (never.status_code, never.json()["code"]) == (413, "payload_too_large")


async def test_concurrent_jobs_of_a_key_and_of_a_model(api: Api, hands: Hands) -> None:
    mine, _ = await make(api, limits={"concurrent": 3})
    assert [(await submit(api, mine, "paced")).status_code for _ in range(2)] == [202, 202]
    here = await submit(api, mine, "paced")
    assert (here.status_code, here.json()["violated-policies"]) == (429, ["model_concurrent"]), "over both versions"
    assert (await submit(api, mine)).status_code == 202
    over = await submit(api, mine)
    assert (over.status_code, over.json()["violated-policies"]) == (429, ["concurrent"])
    assert _RATE_LIMIT.search(over.headers["ratelimit"])["left"] == "0"  # type: ignore[index]
    taken = await hands.take(3)
    await hands.finish(next(one for one in taken if "paced" not in str(one.kwargs["model"])))
    assert (await submit(api, mine)).status_code == 202, "one has ended"
    await hands.finish_all(taken)
    again = await submit(api, mine, "paced")
    assert (again.status_code, again.json()["violated-policies"]) == (429, ["model_requests"]), "3 a minute were asked"


async def test_a_full_queue_still_takes_a_key_that_has_less_than_its_share(api: Api, hands: Hands) -> None:
    greedy, _ = await make(api)
    modest, _ = await make(api)
    model = "roomy"
    assert [(await submit(api, greedy, model)).status_code for _ in range(7)] == [202] * 6 + [503]
    full = await submit(api, greedy, model)
    assert full.json()["violated-policies"] == ["queue"]
    assert full.json()["type"] == "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
    assert _RATE_LIMIT.search(full.headers["ratelimit"])
    assert [(await submit(api, modest, model)).status_code for _ in range(3)] == [202, 202, 503], "a third of six"


async def test_usage_by_day(api: Api, hands: Hands) -> None:
    from shared import scripts
    from shared.outcomes import encode_outcome

    mine, key_id = await make(api)
    job = (await submit(api, mine, "bert", {"texts": ["a", "b"]})).json()["id"]
    await hands.take()
    meta = encode_outcome(job, Outcome(State.SUCCEEDED, output=1), attempt=1, started_at=1)
    for _ in range(2):  # the second has no first outcome to count
        await hands.call(
            scripts.finish(
                job, tag=job, state=State.SUCCEEDED, code="", meta=meta, ttl_ms=1, usage=scripts.Usage(2, 7, 1_500_000)
            )
        )
    entry = {"day": today().isoformat(), "model": "bert", "version": "1"}
    entry |= {"jobs": 1, "items": 2, "tokens": 7, "device_s": 1.5}
    assert (await api.client.get("/v1/usage", headers=mine)).json()["data"] == [entry]
    assert (await api.client.get(f"/v1/keys/{key_id}/usage", headers=ADMIN)).json()["data"] == [entry]
    assert (await api.client.get(f"/v1/keys/{key_id}/usage", headers=mine)).status_code == 403
    none = await api.client.get("/v1/usage?first=2026-01-01&last=2026-01-02", headers=mine)
    assert none.json()["data"] == []
    for query in ("first=x", "first=2026-01-02&last=2026-01-01", "first=2000-01-01"):
        assert (await api.client.get(f"/v1/usage?{query}", headers=mine)).status_code == 422


async def test_redis_away_is_503_and_not_open(redis_url: str, tmp_path: Path) -> None:
    asked = settings("redis://127.0.0.1:1/0", tmp_path, auth="on")
    async with serving(asked) as api:
        answer = await submit(api, bearer("anything"))
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert (await api.client.get("/livez")).status_code == 200


async def test_without_keys_it_does_not_start(redis_url: str, tmp_path: Path) -> None:
    environment = {"ML_REDIS_URL": redis_url, "ML_PORT": "0", "ML_MODELS_FILE": str(tmp_path / "models.yaml")}
    settings(redis_url, tmp_path)

    async def api_process(**more: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "api", env=environment | more, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        lines = []
        while line := await process.stderr.readline():
            lines.append(line.decode())
            if '"event":"started"' in lines[-1]:
                process.terminate()
        return await process.wait(), "".join(lines)

    code, told = await api_process(ML_HOST="0.0.0.0")  # noqa: S104 - what is tested
    assert (code, "python -m api keys create" in told, "ML_AUTH=off" in told) == (2, True, True)
    assert (await api_process(ML_HOST="0.0.0.0", ML_AUTH="off"))[0] == 0  # noqa: S104 - what is tested
    assert (await api_process(ML_AUTH="on"))[0] == 2
    assert (await api_process())[0] == 0, "on loopback no key is asked for"


@pytest.mark.long
def test_the_first_key_is_made_beside_redis(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    settings(redis_url, tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"ML_REDIS_URL": redis_url, "ML_MODELS_FILE": str(tmp_path / "models.yaml")}
        command = [sys.executable, "-m", "api", "keys", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    made = run("create", "--name", "first", "--scope", "admin", "--requests", "5/minute", "--expires-days", "2")
    assert made.returncode == 0, made.stderr
    secret = re.search(r"secret +(\S+)", made.stdout)
    assert secret
    key = ApiKey.model_validate_json(store.hget(keys.KEYS, digest(secret[1])))  # type: ignore[arg-type]
    assert (key.name, key.scopes, key.limits) == ("first", {Scope.ADMIN}, Rates(requests="5/minute"))
    listed = run("list")
    assert "first" in listed.stdout
    assert secret[1] not in listed.stdout
    assert "secret" in run("rotate", key.id).stdout
    assert run("revoke", key.id).returncode == 0
    assert store.hlen(keys.KEYS) == 0
    assert run("revoke", key.id).returncode == 1
    wrong = run("create", "--name", "x", "--requests", "often")
    assert (wrong.returncode, "requests" in wrong.stdout) == (1, True)


async def test_keys_of_a_newer_release_open_nothing_and_break_nothing(api: Api, store: redis.Redis) -> None:
    store.hset(keys.KEYS, digest("newer"), b'{"name": "x", "scopes": ["teleport"]}')
    assert (await submit(api, bearer("newer"))).status_code == 401
    assert (await api.client.get("/v1/keys", headers=ADMIN)).status_code == 200
    assert await KeyService(api.parts.submitter).any()
