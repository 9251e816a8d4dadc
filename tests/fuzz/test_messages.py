"""Messages on the queue: whoever reaches Redis can put any there."""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import redis
from celery import Celery
from celery.worker.request import Request
from hypothesis import assume
from hypothesis import strategies as st
from pydantic import ValidationError

from api.letters import Entry, compose_retry, detail, obstacle, summary
from local.embedded import EmbeddedServer
from shared import keys, messages, scripts
from shared.catalog import Catalog
from shared.errors import CannotRetry, InvalidInput, ServiceError
from shared.model_spec import ModelSpec
from shared.origin import Carried
from shared.outcomes import job_view
from shared.payloads import attach, detach
from shared.settings import Settings
from tests.fuzz.bounds import fuzzed
from tests.fuzz.hostile import changed, damaged, json_values, nested
from worker.adopter import Adopter
from worker.compressed import MAX_BYTES, open_body
from worker.holdings import Holdings
from worker.transport import Channel, _hide_instants

LIST = keys.queue_list("ml.echo.1", keys.NORMAL)
ECHO = Catalog({"echo": ModelSpec.model_validate({"task": "echo", "versions": {"1": {}}})})
TAG = "3f2b1c5e-0000-4000-8000-000000000001"


def _message(*, ours: bool, body: Any = None, **headers: Any) -> dict[str, Any]:
    raw = messages.build(TAG, queue="ml.echo.1", priority=3, model="echo", version="1", input={"a": [1, "b"]})
    message: dict[str, Any] = json.loads(raw)
    if not ours:
        for name in [name for name in message["headers"] if name.startswith("ml")]:
            del message["headers"][name]
    message["headers"] |= headers
    if body is not None:
        message["body"] = base64.b64encode(body).decode()
    return message


_BODY = orjson.dumps([[], {"model": "echo", "input": 1}, {}])
VALID = [
    _message(ours=True),
    _message(ours=True, ml_payloads=["", "/a/0"], ml_timeout_s=1.5, ml_owner="key_1", ml_weight=3),
    _message(ours=True, ml=2, ml_payloads=["", "/a/0"], ml_stored={"1": "r" + "0" * 32 + ".1"}),
    _message(ours=False, expires="2030-01-01T00:00:00Z", eta="2030-01-01T00:00:00", timelimit=[10, None]),
    _message(ours=False, body=zlib.compress(_BODY), compression="application/x-gzip"),
    _message(ours=False, body=json.dumps([[], {"model": "echo", "input": nested(300)}, {}]).encode()),
    _message(ours=True, deep=nested(300)),
]
# What some parsers take for JSON, and others do not.
ODD = [
    b'{"properties": {"delivery_tag": "%s"}, "headers": {}, "a": %s}' % (TAG.encode(), value)
    for value in (
        b"0x10",
        b"NaN",
        b"-Infinity",
        b"nan",
        b"1e400",
        b"01",
        b"1.",
        b'"\n"',
        b'"\xff"',
        b'"\\ud800"',
        b"9" * 6000,
        b"[" * 999 + b"]" * 999,
    )
]
RAW = [json.dumps(message).encode() for message in VALID] + ODD
raws = changed(VALID).map(lambda value: json.dumps(value).encode()) | damaged(RAW)


@pytest.fixture(scope="module")
def client(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


class _Held(Channel):
    """The channel without its connection: what it does with the messages that it has taken."""

    def __init__(self, holdings: Holdings) -> None:
        self.holdings, self._left = holdings, 0


@fuzzed(st.lists(raws, min_size=1, max_size=4), examples=50)
def test_each_message_that_is_taken_is_held_or_buried(client: redis.Redis, raws: list[bytes]) -> None:
    """By the real script, so also what its parser takes and Python's do not. One that no worker can hold would come
    back when its lease ends, and end them all in turn."""
    client.flushall()
    raws = [raw.replace(TAG.encode(), b"%s%d" % (TAG.encode(), number)) for number, raw in enumerate(raws)]
    client.lpush(LIST, *raws)
    holdings = Holdings("p", lambda _: 10)
    channel = _Held(holdings)
    drained = scripts.run_on(client, scripts.drain([LIST], [10], process="p"))
    assume(len({*drained.tags}) == len(drained.tags))
    for tag, (list_name, raw) in zip(drained.tags, drained.messages, strict=True):
        channel._hold(tag, list_name, raw)
    assert {*client.hkeys(keys.UNACKED)} == {*(tag.encode() for tag in holdings.tags()), *holdings.rejected}
    for tag in holdings.rejected:
        channel._bury(client, tag)
    kept = [held.partition(b"\n")[2] for held in client.hvals(keys.UNACKED)]
    assert len(kept) == len(holdings.tags())
    kept += [letter[b"raw"] for _, letter in client.xrange(keys.DEAD)]
    for parked in client.scan_iter(f"{LIST}{keys.PARKED}*"):
        kept += client.lrange(parked, 0, -1)
    assert sorted(kept) == sorted(raws)
    client.flushall()


@fuzzed(changed(VALID), examples=70)
def test_bodies_are_opened_no_further_than_the_bound(message: Any) -> None:
    try:
        open_body(message)
    except (ValueError, KeyError, TypeError, AttributeError):  # which `_hold` buries
        return
    body = message.get("body")
    assert len(body if isinstance(body, str | bytes | list | dict) else "") <= 2 * MAX_BYTES


@fuzzed(raws, examples=80)
def test_letters_are_shown_and_retried_or_refused(raw: bytes) -> None:
    fields = {b"raw": raw, b"reason": b"rejected", b"id": TAG.encode(), b"list": LIST.encode(), b"ref": b"echo@1"}
    entry = Entry("1767225600000-0", fields)
    summary(entry).model_dump_json()
    detail(entry, [None] * len(entry.pointers), obstacle(entry, ECHO)).model_dump_json()
    try:
        retry = compose_retry(entry, "new", catalog=ECHO, settings=Settings(), carried=Carried())
    except CannotRetry:
        return
    again = next(arg for arg in retry.call.args if isinstance(arg, bytes) and arg.startswith(b"{"))
    message, _ = messages.unpack(again)
    assert message["headers"]["id"] == message["properties"]["delivery_tag"] == "new"


@fuzzed(raws, examples=80)
def test_unpack_and_the_envelope(raw: bytes) -> None:
    try:
        message, kwargs = messages.unpack(raw)
    except ValueError:
        return
    try:
        envelope = messages.Envelope.of(message["headers"], kwargs)
    except ValidationError:
        return
    assert envelope.arguments.model == kwargs["model"]


@pytest.fixture(scope="module")
def received() -> Iterator[Callable[[Any], Any]]:
    """Celery's request of a message, if Celery makes one; what it does not take is rejected by worker/consumer.py."""
    app = Celery("fuzz", broker="memory://", set_as_current=False)

    @app.task(name=messages.TASK, shared=False)
    def predict(**kwargs: Any) -> None:
        """Never called."""

    with app.connection() as connection:
        channel = connection.channel()

        def receive(message: Any) -> Any:
            try:
                request = Request(channel.Message(message, channel, accept={"application/json"}), app=app)
                _, _ = request.time_limits
            except Exception:
                return None
            return request

        yield receive


@fuzzed(changed(VALID), examples=80)
def test_a_plain_producers_message_becomes_a_job_or_fails(
    client: redis.Redis, received: Callable[[Any], Any], message: Any
) -> None:
    try:
        _hide_instants(message["headers"])
        open_body(message)
    except Exception:  # which `_hold` buries
        return
    request = received(message)
    if request is None or not (isinstance(request.id, str) and request.id):  # the latter the engine refuses
        return
    nobody: Any = None
    registry: Any = SimpleNamespace(catalog=ECHO)
    adopter = Adopter(nobody, registry, Settings(), finisher=nobody, holdings=nobody, reporter=nobody)
    work: Any = SimpleNamespace(request=request, tag=TAG)
    try:
        call = adopter._call(work)
    except ServiceError:
        return
    client.flushall()
    assert scripts.one(scripts.run(client, [call])) == "adopted"
    record = {name.decode(): value.decode() for name, value in client.hgetall(keys.JOB + request.id).items()}
    assert not job_view(request.id, record, b"").state.terminal
    client.flushall()
    unpacked, kwargs = messages.unpack(next(arg for arg in call.args if isinstance(arg, bytes)))
    messages.Envelope.of(unpacked["headers"], kwargs)


@fuzzed(json_values, st.lists(st.text(max_size=8).map(lambda text: f"/{text}") | st.just("")), st.data(), examples=70)
def test_payloads_are_put_back_or_refused(value: Any, pointers: list[str], data: st.DataObject) -> None:
    part = st.sampled_from([b"", b"\xff", b"{", b'{"a": [1]}', b"[[1], 2]", json.dumps(nested(900)).encode()])
    parts = [data.draw(part) for _ in pointers]
    with contextlib.suppress(InvalidInput):
        attach(value, pointers, parts)


blobs = st.recursive(
    st.binary(max_size=9) | st.text(max_size=9) | st.integers(-5, 5) | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)


@fuzzed(blobs, st.integers(0, 60), examples=70)
def test_what_is_detached_is_attached(value: Any, inline_bytes: int) -> None:
    found = detach(value, inline_bytes)
    assert attach(orjson.loads(orjson.dumps(found.input)), found.pointers, found.parts) == value
