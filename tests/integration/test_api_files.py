"""Files and the payload store on a real API, with each kind of store: upload, use, read, delete, expiry; and inputs by
URL."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from shared.outcomes import encode_outcome
from shared.payload_place import PayloadRef
from shared.payload_store import Payloads
from shared.types import Outcome, State
from tests.api_stack import MODELS, Api, Hands, Taken, serving, settings, until
from tests.payload_places import Place

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
LARGE = bytes(range(251)) * 40_000  # 10 MB: three objects of a folder's, ten of Redis's
ROOMY = MODELS + '  big: {task: image-classification, versions: {"1": {}}, limits: {input_bytes: 100000000}}\n'


@pytest.fixture
async def api(place: Place, redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(settings(redis_url, tmp_path, models=ROOMY, **place.settings)) as running:
        yield running


async def upload(api: Api, content: Any, kind: str = "image/png", **headers: str) -> dict[str, Any]:
    answer = await api.client.post("/v1/files", content=content, headers={"Content-Type": kind} | headers)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/files/{told['id']}"
    return told


async def submit(api: Api, model: str, value: Any, **headers: str) -> httpx.Response:
    return await api.client.post("/v1/jobs", json={"model": model, "input": value}, headers=headers)


async def parts_of(place: Place, hands: Hands, taken: Taken) -> list[bytes]:
    """What a worker reads, in the order of the pointers."""
    store = Payloads(settings_of(place), place.store)
    record = await hands.client.hgetall(keys.JOB + taken.job_id)
    rest = [await hands.client.get(keys.payload_key(taken.job_id, n)) for n in range(int(record[b"payloads"]))]
    left = iter(rest)
    return [
        store.get(PayloadRef.parse(taken.stored[number])) if number in taken.stored else next(left)
        for number in range(len(taken.payloads))
    ]


def settings_of(place: Place) -> Any:
    from shared.settings import Settings

    return Settings(**place.settings)


async def gone(place: Place) -> None:
    """Nothing is left in the store, nor in what is known of it."""
    await until(lambda: place.objects() == [], f"all objects are gone: {place.objects()}")
    await until(lambda: not place.store.exists(keys.STORED, keys.DOOMED), "nothing is known of any")


def far_from_now(place: Place) -> None:
    """All that has an expiry has passed it."""
    for ref in place.store.zrange(keys.STORED, 0, -1):
        place.store.zadd(keys.STORED, {ref: 1})


async def test_a_file_is_what_was_sent(api: Api, place: Place) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for at in range(0, len(LARGE), 70_001):
            yield LARGE[at : at + 70_001]

    told = await upload(api, slowly(), "Image/PNG; x=y")
    assert (told["bytes"], told["sha256"]) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert told["content_type"] == "image/png"
    assert len(place.objects()) == -(-len(LARGE) // api.parts.payloads.store.chunk_bytes)
    assert (await api.client.get(f"/v1/files/{told['id']}")).json() == told
    answer = await api.client.get(f"/v1/files/{told['id']}/content")
    assert answer.content == LARGE
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(len(LARGE))
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await api.client.delete(f"/v1/files/{told['id']}")).status_code == 204
    await gone(place)
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        missing = await api.client.request(method, f"/v1/files/{told['id']}{path}")
        assert (missing.status_code, missing.json()["code"]) == (404, "file_not_found")


async def test_other_ways_to_send_one(api: Api, place: Place) -> None:
    empty = await upload(api, b"", "text/html")
    assert (empty["bytes"], empty["sha256"]) == (0, hashlib.sha256(b"").hexdigest())
    assert (await api.client.get(f"/v1/files/{empty['id']}/content")).content == b""
    squeezed = await upload(api, gzip.compress(PNG), **{"Content-Encoding": "gzip"})
    assert squeezed["sha256"] == hashlib.sha256(PNG).hexdigest()
    odd = await upload(api, b"x", "no type <script>")
    assert odd["content_type"] == "application/octet-stream"
    form = await api.client.post(
        "/v1/files", files={"file": ("cat.png", LARGE, "image/png")}, data={"purpose": "assistants"}
    )
    assert (form.status_code, form.json()["content_type"]) == (201, "image/png")
    assert form.json()["sha256"] == hashlib.sha256(LARGE).hexdigest()


@pytest.mark.parametrize("place", ["redis"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        ("multipart/form-data", b"x", "no boundary"),
        ("multipart/form-data; boundary=b", b"--b--\r\n", "no file"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n--b--", "no file"),
        ("multipart/form-data; boundary=b", b"nothing of it", "cannot be read"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name=f; filename="x"\r\n\r\nhalf',
            "ends too early",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name=f; filename="x"\r\n\r\n1\r\n' * 2 + b"--b--\r\n",
            "more than one file",
        ),
        ("multipart/form-data; boundary=" + "b" * 300, b"x", "cannot be read"),
    ],
)  # fmt: skip
async def test_no_such_multipart(api: Api, place: Place, kind: str, body: bytes, told: str) -> None:
    answer = await api.client.post("/v1/files", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert told in answer.json()["detail"]
    await gone(place)


async def test_an_input_names_files(api: Api, hands: Hands, place: Place) -> None:
    """In the place of base64, of a list's items, or of the whole input; nothing is copied."""
    large, small = await upload(api, LARGE), await upload(api, PNG)
    before = place.objects()
    images = [{"$file": large["id"]}, base64.b64encode(PNG).decode(), {"$file": small["id"]}, {"$file": large["id"]}]
    answer = await submit(api, "big", {"images": images})
    assert answer.status_code == 202, answer.text
    (taken,) = await hands.take()
    assert taken.kwargs["input"] == {"images": [None] * 4}
    assert await parts_of(place, hands, taken) == [LARGE, PNG, PNG, LARGE]
    files = [name for name in place.objects() if name in before]
    assert files == before, "the files are where they were"
    assert len(place.objects()) == len(before) + (place.kind != "r"), "and the one that came with the input beside them"
    await hands.finish(taken, Outcome(State.SUCCEEDED, output=1))
    await until(lambda: place.objects() == before, "the job's own part is gone, the files stay")

    whole = await submit(api, "big", {"$file": small["id"]})
    (taken,) = await hands.take()
    assert (whole.status_code, taken.kwargs["input"], taken.payloads) == (202, {"image": None}, ["/image"])
    assert await parts_of(place, hands, taken) == [PNG]
    listed = await submit(api, "big", [{"image": {"$file": small["id"]}}])
    (taken,) = await hands.take()
    assert (listed.status_code, taken.payloads) == (202, ["/0/image"])

    call = asyncio.create_task(api.client.post("/inference", json={"model_type": "big", "data": {"image": images[0]}}))
    (taken,) = await hands.take()
    await hands.finish(taken, Outcome(State.SUCCEEDED, output={"labels": []}))
    assert (await call).json()["output"] == {"labels": []}


async def test_a_file_of_json_is_the_whole_input(api: Api, hands: Hands, place: Place) -> None:
    """Checked like any other input, and read by the worker where it is."""
    body = orjson.dumps({"texts": ["a" * 1000] * 700})
    told = await upload(api, body, "application/json")
    answer = await submit(api, "bert", {"$file": told["id"]})
    assert answer.status_code == 202, answer.text
    (taken,) = await hands.take()
    assert (taken.kwargs["input"], taken.payloads) == (None, [""])
    assert await parts_of(place, hands, taken) == [body]
    assert await hands.client.hget(keys.JOB + taken.job_id, "items") == b"700"
    wrong_ones = ((b'{"texts": [""]}', "/input/texts/0"), (b"{", "/input"), (b'{"$file": "x"}', "/input/text"))
    for content, pointer in wrong_ones:
        wrong = await upload(api, content, "application/vnd.x+json")
        answer = await submit(api, "bert", {"$file": wrong["id"]})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == pointer, answer.text
    picture = await upload(api, PNG)
    answer = await submit(api, "bert", {"$file": picture["id"]})
    assert answer.json()["errors"][0]["message"].startswith("the model takes no bytes")
    answer = await submit(api, "bert", {"text": {"$file": picture["id"]}})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/input/text"), "bytes are no text"


@pytest.mark.parametrize("place", ["folder"], indirect=True)
async def test_what_cannot_be_used(api: Api, place: Place) -> None:
    big = await upload(api, LARGE)
    answer = await submit(api, "cnn", {"image": {"$file": big["id"]}})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    for value, pointer in (
        ({"image": {"$file": "file_" + "0" * 32}}, "/input/image"),
        ({"image": {"$file": "../../etc/passwd"}}, "/input/image"),
        ({"image": {"$file": ""}}, "/input/image"),
        ({"image": {"$file": 7}}, "/input/image/$file"),
        ({"image": {"$file": {"$file": "x"}}}, "/input/image/$file"),
        ({"images": [{"$file": big["id"]}, {"$file": "x"}]}, "/input/images/1"),
        ({"image": {"$url": "https://example.com/cat.png"}}, "/input/image"),
        ({"image": {"$file": big["id"], "more": 1}}, "/input/image"),
    ):
        answer = await submit(api, "cnn", value)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), value
        assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
    for path in ("file_" + "0" * 32, "x", "..%2f..%2fetc", "file_" + "A" * 32):
        assert (await api.client.get(f"/v1/files/{path}")).status_code == 404
    ref = place.store.hget(keys.FILE + big["id"], "ref").decode()
    assert (await api.client.get(f"/v1/files/{ref}")).status_code == 404, "no reference of ours is anybody's"


async def test_a_file_outlives_the_jobs_that_use_it(api: Api, hands: Hands, place: Place) -> None:
    """Deleted meanwhile, it cannot be used or read, and its bytes go with the last job."""
    told = await upload(api, PNG)
    for _ in range(2):
        assert (await submit(api, "big", {"image": {"$file": told["id"]}})).status_code == 202
    deadline = int((await hands.client.zrange(keys.DEADLINES, 0, 0, withscores=True))[0][1])
    assert place.store.zscore(keys.STORED, place.store.zrange(keys.STORED, 0, 0)[0]) >= deadline
    if place.kind == "r":
        name = keys.OBJECT + place.objects()[0]
        assert place.store.pexpiretime(name) >= deadline
    assert (await api.client.delete(f"/v1/files/{told['id']}")).status_code == 204
    assert (await api.client.delete(f"/v1/files/{told['id']}")).status_code == 404
    refused = await submit(api, "big", {"image": {"$file": told["id"]}})
    assert refused.json()["errors"][0]["pointer"] == "/input/image"
    first, second = await hands.take(2)
    await hands.finish(first, Outcome(State.SUCCEEDED, output=1))
    assert await parts_of(place, hands, second) == [PNG]
    await hands.finish(second, Outcome(State.FAILED, code="predict_error", message="x"))
    await gone(place)


async def test_a_file_expires(api: Api, place: Place) -> None:
    told = await upload(api, PNG)
    place.store.hset(keys.FILE + told["id"], "expires_at", 1)
    assert (await api.client.get(f"/v1/files/{told['id']}")).status_code == 404
    assert (await submit(api, "big", {"image": {"$file": told["id"]}})).status_code == 422
    far_from_now(place)
    await gone(place)


async def test_the_same_request_by_a_file_is_the_same(api: Api, place: Place) -> None:
    """An Idempotency-Key means what is in the file, wherever it is."""
    first, again, other = await upload(api, PNG), await upload(api, PNG), await upload(api, PNG + b"x")
    key = {"Idempotency-Key": "k"}
    made = await submit(api, "big", {"image": {"$file": first["id"]}}, **key)
    for same in ({"$file": again["id"]}, base64.b64encode(PNG).decode()):
        answer = await submit(api, "big", {"image": same}, **key)
        assert answer.json()["id"] == made.json()["id"]
    assert (await submit(api, "big", {"image": {"$file": other["id"]}}, **key)).json()["code"] == "idempotency_mismatch"
    for told in (first, again, other):
        await api.client.delete(f"/v1/files/{told['id']}")
    await api.client.delete(f"/v1/jobs/{made.json()['id']}")
    await gone(place)


async def test_caps(redis_url: str, place: Place, tmp_path: Path) -> None:
    caps = {"max_file_bytes": 5000, "files_bytes": 9000, "max_body_bytes": 1000}
    async with serving(settings(redis_url, tmp_path, **(place.settings | caps))) as api:

        async def pieces(size: int) -> AsyncIterator[bytes]:
            for _ in range(size // 100):
                yield b"x" * 100

        for content in (b"x" * 5001, pieces(6000), b"x" * 200_000, gzip_bomb := gzip.compress(b"x" * 200_000)):
            headers = {"Content-Encoding": "gzip"} if content is gzip_bomb else {}
            answer = await api.client.post("/v1/files", content=content, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
        await gone(place)
        told = await upload(api, pieces(5000))
        for content in (b"x" * 4001, pieces(4100)):
            answer = await api.client.post("/v1/files", content=content)
            assert (answer.status_code, answer.json()["code"]) == (409, "files_full")
        await until(lambda: len(place.objects()) == 1, "what was refused is gone")
        await upload(api, b"x" * 4000)
        await api.client.delete(f"/v1/files/{told['id']}")
        await upload(api, b"x" * 5000)


async def test_a_caller_who_goes_away_in_mid_upload(api: Api, place: Place) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 20000000\r\n\r\n"
    writer.write(head + LARGE)
    await writer.drain()
    await until(lambda: place.objects() != [], "a part of it is there")
    assert place.store.zcard(keys.STORED) == 1
    writer.transport.abort()
    await gone(place)


async def test_a_process_that_dies_in_mid_upload(api: Api, place: Place) -> None:
    """What it has written is found by its expiry."""
    from shared.scripts_payloads import stash

    ref = PayloadRef.new(place.kind, 64)
    await api.parts.submitter.one(stash([ref], 60))
    await api.parts.payloads.put(ref, 0, b"half")
    assert len(place.objects()) == 1
    far_from_now(place)
    await gone(place)


async def test_large_parts_and_small_ones(api: Api, hands: Hands, place: Place) -> None:
    """With a store of its own only small parts are in Redis; cancel, failure and expiry leave nothing."""
    small, large = b"s" * 900, b"l" * 2000
    images = [base64.b64encode(part).decode() for part in (small, large)]
    ids = [(await submit(api, "big", {"images": images})).json()["id"] for _ in range(3)]
    assert len(place.objects()) == (3 if place.kind != "r" else 0)
    taken = await hands.take(1)
    assert await parts_of(place, hands, taken[0]) == [small, large]
    await hands.finish(taken[0], Outcome(State.FAILED, code="predict_error", message="x"))
    assert (await api.client.delete(f"/v1/jobs/{ids[1]}")).json()["state"] == "canceled"
    await until(lambda: len(place.objects()) == (2 if place.kind != "r" else 0), "a failed job's input is kept")
    await api.client.delete(f"/v1/jobs/{ids[2]}")
    far_from_now(place)
    await gone(place)


@pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)
async def test_what_is_not_accepted_leaves_nothing(api: Api, place: Place) -> None:
    value = {"text": "x" * 40_000}
    assert (await submit(api, "bert", value, **{"Idempotency-Key": "k"})).status_code == 202
    assert len(place.objects()) == 1
    assert (await submit(api, "bert", value, **{"Idempotency-Key": "k"})).status_code == 202
    other = await submit(api, "bert", {"text": "y" * 40_000}, **{"Idempotency-Key": "k"})
    assert other.status_code == 422
    await until(lambda: len(place.objects()) == 1, "one job, one input")
    with place.away():
        away = await submit(api, "bert", value)
        assert (away.status_code, away.json()["code"]) == (503, "payloads_unavailable")
        assert away.headers["retry-after"]
        assert (await api.client.post("/v1/files", content=b"x")).json()["code"] == "payloads_unavailable"
        assert (await submit(api, "bert", {"text": "small"})).status_code == 202, "what needs no store goes on"
    assert (await submit(api, "bert", value)).status_code == 202
    far_from_now(place)
    await gone(place)


@pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)
async def test_the_reaper_goes_on_when_the_store_is_back(api: Api, place: Place) -> None:
    told = await upload(api, PNG)
    with place.away():
        await api.client.delete(f"/v1/files/{told['id']}")
        await until(lambda: place.store.zscore(keys.DOOMED, place.store.zrange(keys.DOOMED, 0, 0)[0]) or 0, "doomed")
        await asyncio.sleep(0)
    assert len(place.objects()) == 1
    for ref in place.store.zrange(keys.DOOMED, 0, -1):
        place.store.zadd(keys.DOOMED, {ref: 1})  # a minute has passed
    await gone(place)


@pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)
async def test_a_large_output(api: Api, hands: Hands, place: Place) -> None:
    """It is where the outcome says, for whoever may read the job; a second outcome's goes."""
    output = {"embeddings": [[0.5, -1.0]] * 3}
    job_id = (await submit(api, "bert", {"text": "a"})).json()["id"]
    (taken,) = await hands.take()
    refs = [await stored_output(api, place, output) for _ in range(2)]
    for ref in refs:
        await finish_stored(hands, taken, ref, output)
    await until(lambda: place.objects() == refs[0].objects, "the first outcome stands, the other's output is gone")
    job = (await api.client.get(f"/v1/jobs/{job_id}")).json()
    assert (job["state"], job["output"]) == ("succeeded", None)
    if place.kind == "s":
        async with httpx.AsyncClient(trust_env=False) as anybody:
            assert (await anybody.get(job["output_url"])).json() == output
    else:
        assert job["output_url"] == f"/v1/jobs/{job_id}/output"
    answer = await api.client.get(f"/v1/jobs/{job_id}/output")
    assert (answer.json(), answer.headers["content-type"]) == (output, "application/json")
    octets = await api.client.get(f"/v1/jobs/{job_id}/output", headers={"Accept": "application/octet-stream"})
    assert octets.status_code == 200, octets.text
    assert (octets.headers["ml-shape"], len(octets.content)) == ("3,2", 24)
    ttl = place.store.pttl(keys.OUTCOME + job_id)
    at = place.store.zscore(keys.STORED, str(refs[0]))
    now = place.store.time()
    assert abs(at - (now[0] * 1000 + now[1] // 1000 + ttl)) < 2000, "it lives as long as the outcome"
    with place.away():
        away = await api.client.get(f"/v1/jobs/{job_id}/output")
        assert (away.status_code, away.json()["code"]) == (503, "payloads_unavailable")
        assert (await api.client.get(f"/v1/jobs/{job_id}")).json()["state"] == "succeeded"

    call = asyncio.create_task(api.client.post("/inference", json={"model_type": "bert", "data": {"text": "a"}}))
    (taken,) = await hands.take()
    await finish_stored(hands, taken, await stored_output(api, place, output), output)
    assert (await call).json()["output"] == output, "who waits gets the output itself"
    far_from_now(place)
    await gone(place)
    missing = await api.client.get(f"/v1/jobs/{job_id}/output")
    assert (missing.status_code, missing.json()["code"]) == (500, "record_unreadable")


@pytest.mark.parametrize("place", ["folder"], indirect=True)
async def test_a_canceled_jobs_output_goes(api: Api, hands: Hands, place: Place) -> None:
    job_id = (await submit(api, "bert", {"text": "a"})).json()["id"]
    (taken,) = await hands.take()
    await api.client.delete(f"/v1/jobs/{job_id}")
    await finish_stored(hands, taken, await stored_output(api, place, 1), 1)
    assert (await api.client.get(f"/v1/jobs/{job_id}")).json()["state"] == "canceled"
    await gone(place)


async def stored_output(api: Api, place: Place, output: Any) -> PayloadRef:
    from shared.scripts_payloads import stash

    ref = PayloadRef.new(place.kind)
    await api.parts.submitter.one(stash([ref], 60))
    await api.parts.payloads.put(ref, 0, orjson.dumps(output), "application/json")
    return ref


async def finish_stored(hands: Hands, job: Taken, ref: PayloadRef, output: Any) -> None:
    from shared import scripts

    ended = Outcome(State.SUCCEEDED, stored=str(ref), stored_bytes=len(orjson.dumps(output)))
    meta = encode_outcome(job.job_id, ended, attempt=job.attempt, started_at=job.started_at)
    call = scripts.finish(
        job.job_id, tag=job.job_id, state=ended.state, code="", meta=meta, ttl_ms=60_000, stored=str(ref)
    )
    await hands.call(call)


@pytest.mark.parametrize("place", ["redis"], indirect=True)
async def test_files_are_their_keys(redis_url: str, place: Place, tmp_path: Path) -> None:
    for name, scopes in (("a", {Scope.SUBMIT, Scope.READ}), ("b", {Scope.SUBMIT, Scope.READ}), ("r", {Scope.READ})):
        key = ApiKey(name=name, scopes=frozenset(scopes)).model_dump_json()
        place.store.hset(keys.KEYS, digest(f"key-{name}"), key)
    async with serving(settings(redis_url, tmp_path, models=ROOMY, auth="on")) as api:
        as_key = {name: {"X-API-Key": f"key-{name}"} for name in "abr"}
        told = await upload(api, PNG, **as_key["a"])
        path = f"/v1/files/{told['id']}"
        assert (await api.client.get(path, headers=as_key["a"])).status_code == 200
        for method, where in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            assert (await api.client.request(method, where, headers=as_key["b"])).status_code == 404
        body = {"model": "big", "input": {"image": {"$file": told["id"]}}}
        foreign = await api.client.post("/v1/jobs", json=body, headers=as_key["b"])
        assert foreign.json()["errors"][0]["pointer"] == "/input/image"
        assert (await api.client.post("/v1/jobs", json=body, headers=as_key["a"])).status_code == 202
        assert (await api.client.post("/v1/files", content=b"x", headers=as_key["r"])).status_code == 403
        assert (await api.client.delete(path, headers=as_key["r"])).status_code == 403


# By URL ----------------------------------------------------------------------------------------------


class Pictures(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/cat.png")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/none" else 200)
        body = b"x" * 30_000_000 if self.path == "/huge" else PNG
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def pictures() -> Iterator[str]:
    Pictures.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("place", ["folder"], indirect=True)
async def test_an_input_by_url(redis_url: str, place: Place, tmp_path: Path, pictures: str) -> None:
    asked = settings(redis_url, tmp_path, **(place.settings | {"input_urls": "on", "outbound_allow": "127.0.0.0/8"}))
    hands = Hands.on(asked)
    async with serving(asked) as api:
        value = {"images": [{"$url": f"{pictures}{path}"} for path in ("/cat.png", "/cat.png?2", "/cat.png")]}
        key = {"Idempotency-Key": "k"}
        made = await submit(api, "cnn", value, **key)
        assert made.status_code == 202, made.text
        assert sorted(Pictures.asked) == ["/cat.png", "/cat.png?2"], "each once"
        (taken,) = await hands.take()
        assert await parts_of(place, hands, taken) == [PNG] * 3
        assert (await submit(api, "cnn", value, **key)).json()["id"] == made.json()["id"]
        whole = await submit(api, "cnn", {"$url": f"{pictures}/cat.png"})
        assert whole.status_code == 202
        assert (await hands.take())[0].payloads == ["/image"]
        for path, told in (("/none", "answers 404"), ("/moved", "answers 302"), ("/huge", "more than")):
            answer = await submit(api, "cnn", {"images": [value["images"][0], {"$url": pictures + path}]})
            assert answer.status_code == 422
            (fault,) = answer.json()["errors"]
            assert (fault["pointer"], fault["code"]) == ("/input/images/1", "call_failed")
            assert told in fault["message"]
        for url in ("http://10.0.0.1/x", "file:///etc/passwd", "http://169.254.169.254/latest", "x"):
            answer = await submit(api, "cnn", {"image": {"$url": url}})
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "address_refused")
        many = await submit(api, "cnn", {"images": [value["images"][0]] * 33})
        assert "more than 32 URLs" in many.json()["errors"][0]["message"]
    await hands.client.aclose()


@pytest.mark.parametrize("place", ["redis"], indirect=True)
async def test_redis_is_full(api: Api, place: Place) -> None:
    place.store.config_set("maxmemory", 1)
    try:
        answer = await api.client.post("/v1/files", content=PNG)
        assert answer.status_code == 503
        assert "full" in answer.json()["detail"]
    finally:
        place.store.config_set("maxmemory", 0)
    await gone(place)
