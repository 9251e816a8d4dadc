"""What is read from JSON, what is sent as JSON, and how a client is configured."""

from __future__ import annotations

import base64
import inspect
import io
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import pytest

import ml_service_client
from ml_service_client import Answer, File, Job, MLServiceClient, SyncMLServiceClient
from ml_service_client.arrays import array_of
from ml_service_client.core.bodies import encode, lines, source
from ml_service_client.core.config import configure
from ml_service_client.core.options import CallOptions, envelope, key_header
from ml_service_client.core.steps import Request
from ml_service_client.errors import UnexpectedAnswer
from ml_service_client.types import instant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)),
        ("2026-01-02T03:04:05.1Z", datetime(2026, 1, 2, 3, 4, 5, 100_000, tzinfo=timezone.utc)),
        ("2026-01-02T03:04:05.123456789Z", datetime(2026, 1, 2, 3, 4, 5, 123_456, tzinfo=timezone.utc)),
        ("2026-01-02T03:04:05-01:30", datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(-timedelta(hours=1, minutes=30)))),
        (None, None),
    ],
)
def test_instants(text: str | None, expected: datetime | None) -> None:
    assert instant(text) == expected


def test_a_job_of_a_newer_service_keeps_what_it_has_more() -> None:
    raw = {"id": "j", "model": "m", "version": "1", "state": "queued", "brand_new": 1, "progress": None}
    job = Job.of(raw)
    assert job.raw["brand_new"] == 1
    assert (job.done, job.output, job.timing.queue_ms) == (False, None, None)
    with pytest.raises(AttributeError):
        job.state = "running"  # type: ignore[misc]


def test_an_answer_is_its_dict() -> None:
    raw = {"job_id": "j", "model": "m", "version": "1", "output": [1], "timing": {"queue_ms": 2}}
    answer = Answer(raw)
    assert json.loads(json.dumps(answer)) == raw
    assert (answer["output"], answer.output, answer.timing.queue_ms, answer.errors) == ([1], [1], 2, ())
    assert (answer.fallback_for, Answer(raw | {"fallback_for": "n"}).fallback_for) == (None, "n")


def test_bytes_files_and_arrays_in_an_input(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"\xff\xd8")
    uploaded = File("file_1", 2, "", None)
    body = json.loads(encode({"a": b"\xff\xd8", "b": path, "c": uploaded, "d": "é"}))
    image = base64.b64encode(b"\xff\xd8").decode()
    assert body == {"a": image, "b": image, "c": {"$file": "file_1"}, "d": "é"}
    for wrong in ({1, 2}, float("nan"), object()):
        with pytest.raises((TypeError, ValueError)):
            encode(wrong)


@pytest.mark.parametrize("kind", ["bytes", "path", "open", "from its middle", "iterator"])
def test_a_body_can_be_sent_again(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"0123456789")
    opened = io.BytesIO(b"0123456789" if kind == "open" else b"__0123456789")
    opened.seek(0 if kind == "open" else 2)
    made = source(
        {"bytes": b"0123456789", "path": path, "iterator": iter([b"01234", b"56789"])}.get(kind, opened)  # type: ignore[arg-type]
    )
    if isinstance(made, bytes):
        assert made == b"0123456789"
        return
    assert made.size() == 10
    assert b"".join(made.chunks()) == b"".join(made.chunks()) == b"0123456789"


def test_lines_of_a_generator_larger_than_memory_may_be() -> None:
    made = lines({"n": n, "text": "x" * 1000} for n in range(10_000))
    assert made.size() > 8 * 1024 * 1024
    text = b"".join(made.chunks())
    assert [json.loads(one)["n"] for one in text.splitlines()] == list(range(10_000))


def test_options() -> None:
    assert envelope({"priority": "high", "labels": None, "idempotency_key": "k"}) == {"priority": "high"}
    assert key_header({"idempotency_key": "k"}) == {"Idempotency-Key": "k"}
    assert key_header({}) != key_header({})
    with pytest.raises(TypeError, match="priorty"):
        envelope({"priorty": "high"})


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_SERVICE_URL", "http://ml-service:8001/")
    monkeypatch.setenv("ML_SERVICE_API_KEY", "mls_1")
    made = configure(None, None, 30.0, 3, None)
    assert (made.base_url, made.headers["Authorization"]) == ("http://ml-service:8001", "Bearer mls_1")
    given = configure("https://other/ml", "mls_2", 5.0, 0, {"X-Tenant": "a"})
    assert (given.base_url, given.headers["Authorization"]) == ("https://other/ml", "Bearer mls_2")
    assert given.headers["X-Tenant"] == "a"
    assert given.headers["User-Agent"].startswith("ml-service-client/")
    monkeypatch.delenv("ML_SERVICE_URL")
    monkeypatch.delenv("ML_SERVICE_API_KEY")
    bare = configure(None, None, 30.0, 3, None)
    assert bare.base_url == "http://127.0.0.1:8001"
    assert "Authorization" not in bare.headers
    with pytest.raises(ValueError, match="http://"):
        configure("ml-service:8001", None, 30.0, 3, None)
    with pytest.raises(ValueError, match="retries"):
        configure(None, None, 30.0, -1, None)


def test_every_request_has_every_timeout() -> None:
    made = configure("http://h", None, 5.0, 3, None)
    timeout = made.timeout_of(Request("GET", "/", held_s=25))
    assert (timeout.connect, timeout.read, timeout.write, timeout.pool) == (5.0, 30.0, 5.0, 5.0)
    assert made.having(1.0, None).timeout_of(Request("GET", "/")).read == 1.0


def answer(content: bytes, **headers: str) -> httpx.Response:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(200, content=content, headers=told, request=httpx.Request("GET", "http://h/"))


def test_arrays() -> None:
    content = b"\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40\x00\x00\x80\x40\x00\x00\xa0\x40\x00\x00\xc0\x40"
    made = array_of(answer(content, ML_Shape="2,3", ML_Dtype="float32"))
    assert (made.shape, len(made)) == ((2, 3), 2)
    assert made.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert made.memoryview()[1, 2] == 6.0
    for wrong in (
        {"ML_Shape": "2,4", "ML_Dtype": "float32"},
        {"ML_Shape": "2,3", "ML_Dtype": "int8"},
        {"ML_Shape": ""},
    ):
        with pytest.raises(UnexpectedAnswer):
            array_of(answer(content, **wrong))
    with pytest.raises(UnexpectedAnswer):
        array_of(answer(content[:-1], ML_Shape="2,3", ML_Dtype="float32"))


def test_arrays_with_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    made = array_of(answer(b"\x00\x00\x80\x3f", ML_Shape="1", ML_Dtype="float32"))
    assert made.numpy().dtype == numpy.float32
    assert numpy.asarray(made).tolist() == [1.0]
    assert numpy.asarray(made, dtype="float64").dtype == numpy.float64


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> dict[str, Any]:
        return {
            name: inspect.signature(member)
            for name, member in inspect.getmembers(kind)
            if callable(member) and not name.startswith("_")
        }

    there, here = public(MLServiceClient), public(SyncMLServiceClient)
    assert there.keys() == here.keys()
    for name, signature in there.items():
        assert list(signature.parameters) == list(here[name].parameters), name
        defaults = [one.default for one in signature.parameters.values()]
        assert defaults == [one.default for one in here[name].parameters.values()], name
        assert getattr(MLServiceClient, name).__doc__, name


def test_all_that_is_exported_is_there() -> None:
    assert all(hasattr(ml_service_client, name) for name in ml_service_client.__all__)
    assert len(set(ml_service_client.__all__)) == len(ml_service_client.__all__)
    assert get_type_hints(Job)["state"]
    assert CallOptions.__total__ is False
