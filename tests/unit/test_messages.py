"""Our hand-built message against Celery's own, so that an upgrade that changes the format fails here."""

from __future__ import annotations

import base64
import json
from typing import Any

import redis
from celery import Celery

from shared import keys, messages
from shared.queue import make_celery
from shared.settings import Settings


def _celerys_own(store: redis.Redis, url: str, **options: Any) -> dict[str, Any]:
    app = make_celery(Settings(redis_url=url))
    app.send_task(messages.TASK, **options)
    app.close()
    (raw,) = [store.rpop(name) for name in store.scan_iter("ml*", _type="LIST")]
    message: dict[str, Any] = json.loads(raw)
    return message


def test_it_is_what_celery_produces(store: redis.Redis, redis_url: str) -> None:
    kwargs = {"model": "bert", "version": "1", "input": {"text": "hé"}, "parameters": {}}
    theirs = _celerys_own(store, redis_url, kwargs=kwargs, queue="ml", task_id="job-1", priority=3)
    ours = json.loads(messages.build("job-1", queue="ml", priority=3, model="bert", version="1", input={"text": "hé"}))
    assert json.loads(base64.b64decode(ours["body"])) == json.loads(base64.b64decode(theirs["body"]))
    assert ours.keys() == theirs.keys()
    assert ours["headers"].keys() - theirs["headers"].keys() == {"ml"}
    assert theirs["headers"].keys() - ours["headers"].keys() == set()
    different = {"argsrepr", "kwargsrepr", "origin"}
    for name in theirs["headers"].keys() - different:
        assert ours["headers"][name] == theirs["headers"][name], name
    assert ours["properties"].keys() == theirs["properties"].keys()
    for name in theirs["properties"].keys() - {"delivery_tag", "reply_to", "delivery_info"}:
        assert ours["properties"][name] == theirs["properties"][name], name
    assert ours["properties"]["delivery_tag"] == "job-1"
    assert theirs["properties"]["delivery_info"].keys() == ours["properties"]["delivery_info"].keys()
    for name in ("content-type", "content-encoding"):
        assert ours[name] == theirs[name]


def test_what_is_as_by_default_is_left_out_and_read_all_the_same() -> None:
    what: dict[str, Any] = {"queue": "ml.m.1", "priority": 3, "model": "m", "version": "1", "input": 1}
    told = {"payloads": ["/a"], "stored": {0: "r" + "0" * 32 + ".1"}, "timeout_s": 1.5, "owner": "key", "weight": 2}
    seen = []
    for raw in (messages.build("a", **what), messages.build("b", **what, **told)):
        message, kwargs = messages.unpack(raw)
        headers = message["headers"]
        envelope = messages.Envelope.of(headers, kwargs)
        parts = (envelope.ml_payloads, envelope.ml_stored, envelope.ml_timeout_s, envelope.ml_owner, envelope.ml_weight)
        seen.append(({name for name in headers if name.startswith("ml")}, parts))
    names = {"ml", *(f"ml_{name}" for name in told)}
    assert seen == [({"ml"}, ([], {}, None, "", 1)), (names, tuple(told.values()))]
    assert messages.items_of(messages.unpack(messages.build("c", **what, items=8))[0]["headers"]) == 8
    assert len(messages.build("a", **what)) < 1000, "it lies in Redis's memory as long as its job is queued"


def test_a_readdressed_message_keeps_what_it_carries(store: redis.Redis, redis_url: str) -> None:
    app = Celery("backend", broker=redis_url, set_as_current=False)
    after = app.signature("backend.after", args=(1,))
    theirs = _celerys_own(
        store, redis_url, kwargs={"model": "bert"}, queue="ml", task_id="job-2", link=after, expires=60
    )
    _, _, embed = json.loads(base64.b64decode(theirs["body"]))
    kwargs = {"model": "bert", "version": "1", "input": {}, "parameters": {}}
    raw = messages.readdress(theirs, "job-2", queue="ml.bert.1", priority=0, kwargs=kwargs, embed=embed)
    moved = json.loads(raw)
    args, new_kwargs, new_embed = json.loads(base64.b64decode(moved["body"]))
    assert (args, new_kwargs, new_embed) == ([], kwargs, embed)
    assert new_embed["callbacks"][0]["task"] == "backend.after"
    assert moved["headers"]["ml"] == messages.PLAIN
    assert moved["headers"]["expires"] is None
    assert moved["headers"]["root_id"] == theirs["headers"]["root_id"]
    assert moved["properties"]["delivery_tag"] == "job-2"
    assert moved["properties"]["delivery_info"] == {"exchange": "ml.bert.1", "routing_key": "ml.bert.1"}
    assert moved["properties"]["priority"] == 0
    assert theirs["headers"]["expires"] is not None, "the original is untouched"
    assert "ml_items" not in moved["headers"]
    many = messages.readdress(theirs, "j", queue="ml.bert.1", priority=0, kwargs=kwargs, embed=embed, items=8)
    assert messages.items_of(messages.unpack(many)[0]["headers"]) == 8


def test_lists_are_named_as_kombu_names_them(store: redis.Redis, redis_url: str) -> None:
    app = make_celery(Settings(redis_url=redis_url))
    for priority in keys.PRIORITIES:
        app.send_task(messages.TASK, kwargs={}, queue="ml", priority=priority)
        assert store.lpop(keys.queue_list("ml", priority)) is not None, priority
    app.close()


def test_priorities_of_plain_producers() -> None:
    assert [keys.nearest_priority(n) for n in (None, -1, 0, 1, 3, 5, 6, 9)] == [3, 0, 0, 0, 3, 3, 6, 6]


def test_two_models_never_share_a_queue() -> None:
    assert keys.queue_name("a.b", "c") != keys.queue_name("a", "b.c")
    assert keys.queue_name("bert", "1") == "ml.bert.1"
