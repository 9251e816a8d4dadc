"""What an API process says while it is used and misused: no key, no password, no input."""

from __future__ import annotations

import base64
import socket
from pathlib import Path

import httpx
import redis

from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from tests.api_stack import MODELS
from tests.processes import api_process

SECRET, WRONG, INPUT, PASSWORD = "mls_canary-of-a-key", "mls_canary-of-a-guess", "canary-of-an-input", "canary-of-redis"


def test_a_log_holds_no_secret(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    models, log = tmp_path / "models.yaml", tmp_path / "log"
    models.write_text(MODELS)
    key = ApiKey(name="a", scopes=frozenset({Scope.ADMIN}))
    store.hset(keys.KEYS, digest(SECRET), key.model_dump_json())
    store.config_set("requirepass", PASSWORD)
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as listen,
            api_process(
                redis_url.replace("redis://", f"redis://:{PASSWORD}@"),
                models,
                log,
                listen,
                ML_AUTH="on",
                ML_LOG_LEVEL="DEBUG",
                ML_ACCESS_LOG="true",
            ),
        ):
            url = f"http://127.0.0.1:{listen.getsockname()[1]}"
            assert _use(url) >= {202, 400, 401, 404, 422}
            store.config_set("requirepass", f"{PASSWORD}-another")
            store.client_kill_filter(_type="normal", skipme=True)
            assert 503 in _use(url)
    finally:
        store.config_set("requirepass", "")
    told = log.read_text()
    assert " request " in told, "it says something"
    for secret in (SECRET, WRONG, INPUT, PASSWORD):
        for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("="), digest(secret)):
            assert form not in told


def _use(url: str) -> set[int]:
    seen: list[httpx.Response] = []
    with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
        for secret in (SECRET, WRONG):
            headers = {"Authorization": f"Bearer {secret}", "X-API-Key": secret}
            for body in ({"model": "echo", "input": INPUT}, {"model": INPUT, "input": INPUT}, [INPUT], INPUT):
                seen.append(client.post("/v1/jobs", json=body, headers=headers))
            files = {"image": (INPUT, INPUT.encode())}
            seen.append(client.post("/v1/jobs", content=f"{{{INPUT}".encode(), headers=headers))
            seen.append(client.post("/v1/jobs", files=files, data={"model": "cnn"}, headers=headers))
            seen.append(client.get("/v1/keys", headers=headers))
    return {answer.status_code for answer in seen}
