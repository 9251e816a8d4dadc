"""Messages from outside that would run code, ask for another task, or fill the memory: none does, and all are kept."""

from __future__ import annotations

import base64
import json
import os
import pickle
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml
from celery import Celery
from kombu import Connection, Exchange, Producer

from local.embedded import EmbeddedServer
from shared import keys, messages
from shared.queue import make_celery
from shared.settings import Settings
from tests.conftest import wait_until
from tests.stock_celery import close_celery


class Payload:
    """When it is unpickled, a file appears."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.flag}",))


@pytest.fixture
def flag(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists()
    pickle.loads(pickle.dumps(Payload(path)))  # noqa: S301 - the payload is ours, and does run
    assert path.exists()


def changed(tag: str, *, ours: bool, **changes: Any) -> bytes:
    queue = "ml.echo.1" if ours else keys.INTAKE
    message = json.loads(messages.build(tag, queue=queue, priority=3, model="echo", version="1", input=1))
    if not ours:
        del message["headers"]["ml"]
    message["headers"] |= changes.pop("headers", {})
    return json.dumps(message | changes).encode()


def linked(tag: str, embed: dict[str, Any]) -> bytes:
    """A plain producer's call of echo with something of Celery's canvas behind it."""
    body = json.dumps([[], {"model": "echo", "input": 1}, embed]).encode()
    return changed(tag, ours=False, body=base64.b64encode(body).decode())


def send(store: redis.Redis, raw: bytes, *, ours: bool = False) -> None:
    store.lpush(keys.queue_list("ml.echo.1", keys.NORMAL) if ours else keys.INTAKE, raw)


def letters_of(store: redis.Redis, tags: list[str]) -> int:
    return sum(fields.get(b"id", b"").decode() in tags for _, fields in store.xrange(keys.DEAD))


def served(http: httpx.Client) -> bool:
    job = http.post("/v1/jobs", json={"model": "echo", "input": "on"}, headers={"Prefer": "wait=20"}).json()
    return bool(job["output"] == "on")


def test_bodies_that_would_run_code_are_not_read(http: httpx.Client, stack_store: redis.Redis, flag: Path) -> None:
    call = [[], {"model": "echo", "version": "1", "input": Payload(flag)}, {}]
    pickled = pickle.dumps(call)
    tagged = f"!!python/object/apply:os.system ['touch {flag}']\n"
    bodies = {
        "application/x-python-serialize": pickled,
        "application/json": pickled,
        "application/x-yaml": f"- []\n- {{model: echo, input: {tagged.strip()}}}\n- {{}}\n".encode(),
        "application/yaml": yaml.dump(call).encode(),
        "application/x-msgpack": pickled,
        "application/data": pickled,
        "": pickled,
    }
    tags = []
    for ours in (False, True):
        for kind, body in bodies.items():
            for encoding in ("binary", "utf-8"):
                tag = str(uuid.uuid4())
                more = {"content-type": kind, "content-encoding": encoding}
                raw = changed(tag, ours=ours, body=base64.b64encode(body).decode(), **more)
                send(stack_store, raw, ours=ours)
                tags.append(tag)
    wait_until(lambda: letters_of(stack_store, tags) == len(tags), what="a letter for each")
    assert served(http)


@pytest.mark.parametrize(
    "task",
    [
        "celery.backend_cleanup",
        "celery.chain",
        "celery.chord",
        "celery.chord_unlock",
        "celery.chunks",
        "celery.group",
        "celery.map",
        "celery.starmap",
        "celery.accumulate",
        "celery.ping",
        "os.system",
        "ml.Predict",
        "ml.predict\0",
        "",
    ],
)
def test_another_task_is_unknown_whatever_its_arguments(
    stack_store: redis.Redis, stack_server: EmbeddedServer, task: str
) -> None:
    tag = str(uuid.uuid4())
    send(stack_store, changed(tag, ours=False, headers={"task": task}))
    ours = str(uuid.uuid4())
    send(stack_store, changed(ours, ours=True, headers={"task": task}), ours=True)
    app = Celery("backend", broker=stack_server.url, backend=stack_server.url, set_as_current=False)
    with pytest.raises(Exception, match=r".") as failed:
        app.AsyncResult(tag).get(timeout=20)
    assert failed.type.__name__ == "NotRegistered"
    wait_until(lambda: letters_of(stack_store, [tag, ours]) == 2, what="both are kept")
    close_celery(app)


@pytest.mark.parametrize(
    "embed",
    [
        {"callbacks": "abc"},
        {"callbacks": [1]},
        {"errbacks": {"task": "ml.predict"}},
        {"chain": "abc"},
        {"chain": [{"task": 5}]},
        {"chain": [{"task": "ml.predict", "subtask_type": "of-somebody-else"}]},
        {"chord": [1]},
        {"chord": {"kwargs": {}}},
    ],
    ids=str,
)
def test_what_celery_could_never_call_fails_at_once(
    http: httpx.Client, stack_store: redis.Redis, stack_server: EmbeddedServer, embed: dict[str, Any]
) -> None:
    tag = str(uuid.uuid4())
    send(stack_store, linked(tag, embed))
    app = Celery("backend", broker=stack_server.url, backend=stack_server.url, set_as_current=False)
    with pytest.raises(Exception, match=f"{next(iter(embed))} must be a") as failed:
        app.AsyncResult(tag).get(timeout=20)
    assert failed.type.__name__ == "invalid_input"
    close_celery(app)
    assert served(http)


@pytest.mark.parametrize(
    "embed",
    [
        {"chain": [{"task": "ml.predict", "options": {"countdown": "soon"}}]},
        {"callbacks": [{"task": "ml.predict", "args": 5, "options": {"queue": "ml"}}]},
        {"chain": [{"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": 7}}]},
        {"chord": {"task": "ml.predict", "options": {"queue": "ml"}}},
        {"chord": {"task": "ml.predict", "options": {"queue": "ml"}}, "group": "g", "group_index": "soon"},
        {"callbacks": [{"task": "ml.predict", "options": {"queue": keys.UNACKED}}]},
    ],
    ids=str,
)
def test_what_celery_cannot_call_costs_no_outcome_and_no_worker(
    http: httpx.Client, stack_store: redis.Redis, stack_server: EmbeddedServer, embed: dict[str, Any]
) -> None:
    before = stack_store.zrange(keys.WORKERS, 0, -1)
    tag = str(uuid.uuid4())
    send(stack_store, linked(tag, embed))
    app = Celery("backend", broker=stack_server.url, backend=stack_server.url, set_as_current=False)
    assert app.AsyncResult(tag).get(timeout=20) == 1
    close_celery(app)
    assert served(http)
    wait_until(lambda: not stack_store.hexists(keys.UNACKED, tag), what="its message is acknowledged")
    assert set(stack_store.zrange(keys.WORKERS, 0, -1)) == set(before), "the same worker processes"


def test_compressed_messages_are_served_and_bombs_are_kept(
    http: httpx.Client, stack_store: redis.Redis, stack_server: EmbeddedServer
) -> None:
    bomb = zlib.compress(bytes(300_000_000), 9)
    tags = []
    for ours in (False, True):
        tags.append(str(uuid.uuid4()))
        body = base64.b64encode(bomb).decode()
        raw = changed(tags[-1], ours=ours, body=body, headers={"compression": "application/x-gzip"})
        send(stack_store, raw, ours=ours)
    wait_until(lambda: letters_of(stack_store, tags) == 2, what="a letter for each")
    app = Celery("backend", broker=stack_server.url, backend=stack_server.url, set_as_current=False)
    for method in ("gzip", "bzip2", "lzma"):
        kwargs = {"model": "echo", "input": "a" * 1000}
        sent = app.send_task("ml.predict", kwargs=kwargs, queue="ml", compression=method)
        assert sent.get(timeout=20) == "a" * 1000
    close_celery(app)
    assert served(http)


def test_what_only_the_script_can_read_is_kept_and_ends_no_worker(http: httpx.Client, stack_store: redis.Redis) -> None:
    tags, odd = [], (b"0x10", b"NaN", b"nan", b"01", b'"\n"', b'"\xff"', b"1e999")
    for ours in (False, True):
        for number in odd:
            tags.append(str(uuid.uuid4()))
            raw = changed(tags[-1], ours=ours, odd="here")
            send(stack_store, raw.replace(b'"here"', number), ours=ours)
        for name in (None, True, 5, ""):
            tags.append(str(uuid.uuid4()))
            send(stack_store, changed(tags[-1], ours=ours, headers={"id": name}), ours=ours)

    def kept() -> bytes:
        return b"".join(fields[b"raw"] for _, fields in stack_store.xrange(keys.DEAD))

    wait_until(lambda: all(tag.encode() in kept() for tag in tags), what="a letter for each")
    assert served(http)


def test_control_messages_that_would_run_code_are_not_read(
    http: httpx.Client, stack_server: EmbeddedServer, flag: Path
) -> None:
    exchange = Exchange(f"{keys.CONTROL_EXCHANGE}.pidbox", type="fanout", durable=False)
    wire = {"binary": pickle.dumps({"method": Payload(flag), "arguments": {}})}
    with Connection(stack_server.url) as connection:
        producer = Producer(connection.channel(), exchange)
        for kind in ("application/x-python-serialize", "application/json", "application/x-yaml"):
            for encoding, body in wire.items():
                producer.publish(body, content_type=kind, content_encoding=encoding, serializer=None)
        for odd in ({"method": "os.system", "arguments": {"a": 1}}, {"method": None}, [1], "text", {}):
            producer.publish(odd, serializer="json")
    control = make_celery(Settings(redis_url=stack_server.url))
    wait_until(lambda: control.control.ping(timeout=1), what="the worker answers as before")
    control.close()
    assert served(http)
