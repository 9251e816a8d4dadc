"""The message on the queue: Celery's own wire format (protocol 2), built by hand.

`apply_async` costs 300-880 us a job, this about 30. `tests/unit/test_messages.py` compares it with what Celery
itself produces, so that an upgrade that changes the format fails there. Task id, delivery tag and job id are one.
https://docs.celeryq.dev/en/stable/internals/protocol.html
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field

from shared.depth import MAX_DEPTH, too_deep

TASK = "ml.predict"
# Of our own fields below; a worker leaves what is newer than it knows to others. 2: `ml_stored`. What needs nothing of
# it says 1, so that older workers go on with it.
VERSION = 2
PLAIN = 1
# Where the worker's transport puts a plain producer's `expires` and `eta`, out of Celery's sight.
HIDDEN = {"expires": "ml_expires", "eta": "ml_eta"}
_NO_CALLBACKS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_NUMBER = re.compile(r"[0-9]{1,6}")
_CARRIED = {"ml_request_id", "traceparent", "tracestate"}  # of the request that asked for the job


class Arguments(BaseModel):
    """Of `ml.predict`, as we call it."""

    model_config = ConfigDict(strict=True, frozen=True)

    model: str
    version: str
    input: Any
    parameters: dict[str, Any] | None = None


class Envelope(BaseModel):
    """What a worker must find in a message that says that it is ours (header `ml`)."""

    model_config = ConfigDict(strict=True, frozen=True)

    id: str = Field(min_length=1)
    ml: int
    ml_payloads: list[str] = []
    ml_stored: dict[int, str] = {}
    ml_timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    ml_owner: str = ""
    ml_weight: int = Field(1, ge=1)
    ml_returns: str = ""
    arguments: Arguments

    @classmethod
    def of(cls, headers: dict[str, Any], kwargs: Any) -> Envelope:
        """Raises ValidationError."""
        return cls.model_validate(headers | {"arguments": kwargs, "ml_stored": _by_number(headers.get("ml_stored"))})


def items_of(headers: dict[str, Any]) -> int:
    """How many items a message's job has, of whatever sent it; `drain` in shared/lua reads it likewise."""
    items = headers.get("ml_items")
    return items if isinstance(items, int) and items > 1 else 1


def _by_number(stored: Any) -> Any:
    """JSON's keys are text. What is no such mapping is left for the model to refuse."""
    if stored is None:
        return {}
    if isinstance(stored, dict) and all(_NUMBER.fullmatch(name) for name in stored):
        return {int(name): ref for name, ref in stored.items()}
    return stored


def build(
    job_id: str,
    *,
    queue: str,
    priority: int,
    model: str,
    version: str,
    input: Any,
    parameters: dict[str, Any] | None = None,
    payloads: list[str] | None = None,
    stored: Mapping[int, str] | None = None,
    timeout_s: float | None = None,
    owner: str = "",
    weight: int = 1,
    items: int = 1,
    carried: Mapping[str, str] | None = None,
) -> bytes:
    """The raw message. `items`: how many its input has. `owner`: the key that takes turns with others, by its weight.
    `payloads`: JSON pointers of the parts of `input` that lie beside the message, in the order of their numbers (the
    pointer "" is the input itself); `stored` the references of those that lie in the payload store, by number: the
    others are keys of the job's own. `timeout_s`: of this predict, not its model's. `carried`: further headers
    (shared/origin.py)."""
    kwargs = {"model": model, "version": version, "input": input, "parameters": parameters or {}}
    body = base64.b64encode(orjson.dumps([[], kwargs, _NO_CALLBACKS])).decode()
    whose = _Whose(queue, priority, owner, weight, timeout_s, carried or {})
    wire = VERSION if stored else PLAIN
    return _message(job_id, body, payloads or [], whose, stored or {}, version=wire, items=items)


@dataclass(frozen=True, slots=True)
class Template:
    """The messages of jobs that differ in their ids and inputs. In `text` the character 1 and a letter stand for what
    is put in: i an id, v the message's version, p the JSON list of the payloads' pointers (and behind it the headers
    `ml_stored` and `ml_items`, where they are wanted), b the body, which is `head`, an input, and `tail`."""

    text: bytes
    head: bytes
    tail: bytes


def template(
    *,
    queue: str,
    priority: int,
    model: str,
    version: str,
    parameters: dict[str, Any] | None = None,
    owner: str = "",
    weight: int = 1,
    carried: Mapping[str, str] | None = None,
) -> Template:
    """As `build`, for many jobs; shared/lua/prelude_batches.lua puts in what `encode_input` gives."""
    mark = uuid.uuid4().hex  # which no caller can have written into what is carried
    kwargs = orjson.dumps({"model": model, "version": version, "parameters": parameters or {}})
    head, tail = b"[[]," + kwargs[:-1] + b',"input":', b"}," + orjson.dumps(_NO_CALLBACKS) + b"]"
    whose = _Whose(queue, priority, owner, weight, None, carried or {})
    text = _message(f"{mark}i", f"{mark}b", [f"{mark}p"], whose, {}, version=f"{mark}v")
    text = text.replace(f'["{mark}p"]'.encode(), b"\1p").replace(f'"{mark}v"'.encode(), b"\1v")
    text = text.replace(mark.encode(), b"\1")
    return Template(text, encode_input(head), base64.b64encode(tail))


def encode_input(text: bytes) -> bytes:
    """A piece of JSON as base64 that can be put behind and before another: blanks, which mean nothing in JSON, make its
    length one that base64 does not pad."""
    return base64.b64encode(text + b" " * (-len(text) % 3))


class _Whose(NamedTuple):
    """What many messages have in common."""

    queue: str
    priority: int
    owner: str
    weight: int
    timeout_s: float | None
    carried: Mapping[str, str]


def _message(
    job_id: str,
    body: str,
    payloads: list[str],
    whose: _Whose,
    stored: Mapping[int, str],
    *,
    version: int | str,
    items: int = 1,
) -> bytes:
    return orjson.dumps(
        {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": TASK,
                "id": job_id,
                "shadow": None,
                "eta": None,
                # Deadlines are ours (a sorted set, in Redis TIME): Celery would drop an expired message silently.
                "expires": None,
                "group": None,
                "group_index": None,
                "retries": 0,
                "timelimit": [None, None],
                "root_id": job_id,
                "parent_id": None,
                # Constants: Celery would ship a repr of the payload in each message and each event.
                "argsrepr": "()",
                "kwargsrepr": "{}",
                "origin": "ml-service",
                "ignore_result": None,  # as the task says
                "replaced_task_nesting": 0,
                "stamped_headers": None,
                "stamps": {},
                "ml": version,
                **_own(payloads, stored, whose, items),
                **whose.carried,
            },
            "properties": {
                "correlation_id": job_id,
                "reply_to": "",
                "delivery_mode": 2,
                "delivery_info": {"exchange": whose.queue, "routing_key": whose.queue},
                "priority": whose.priority,
                "body_encoding": "base64",
                "delivery_tag": job_id,
            },
        }
    )


def _own(payloads: list[str], stored: Mapping[int, str], whose: _Whose, items: int) -> dict[str, Any]:
    """Our fields, but for those that are as every `Envelope` has them by default: a queued job is the message and its
    record, and lies in Redis's memory."""
    fields: dict[str, Any] = {"ml_payloads": payloads} if payloads else {}
    if stored:
        fields["ml_stored"] = {str(number): ref for number, ref in stored.items()}
    if whose.timeout_s is not None:
        fields["ml_timeout_s"] = whose.timeout_s
    if whose.owner:
        fields["ml_owner"] = whose.owner
    if whose.weight != 1:
        fields["ml_weight"] = whose.weight
    if items != 1:
        fields["ml_items"] = items
    return fields


def readdress(
    message: dict[str, Any],
    job_id: str,
    *,
    queue: str,
    priority: int,
    kwargs: dict[str, Any],
    embed: Any,
    timeout_s: float | None = None,
    returns: str = "",
    items: int = 1,
) -> bytes:
    """A plain Celery producer's message as one of ours: its id is the delivery tag, its queue the version's, its task
    ours, its result the field `returns` of the output (empty: the output), and what else it carries (`embed`:
    callbacks, chain, chord; headers) stays. `items`: as for `build`. The deadline has moved into the record."""
    message = {**message, "headers": dict(message["headers"]), "properties": dict(message["properties"])}
    message["body"] = base64.b64encode(orjson.dumps([[], kwargs, embed])).decode()
    message["content-type"], message["content-encoding"] = "application/json", "utf-8"
    message["headers"] |= {"ml": PLAIN, "ml_payloads": [], "eta": None, "expires": None, "timelimit": [None, None]}
    message["headers"] |= {"argsrepr": "()", "kwargsrepr": "{}", "ml_timeout_s": timeout_s, "task": TASK}
    message["headers"] |= {"ml_returns": returns}
    # The turns of a key are not a producer's to take, nor what lies in the payload store.
    for name in (*HIDDEN.values(), "ml_owner", "ml_weight", "ml_items", "ml_stored"):
        message["headers"].pop(name, None)
    if items != 1:
        message["headers"]["ml_items"] = items
    message["properties"] |= {
        "body_encoding": "base64",
        "delivery_tag": job_id,
        "priority": priority,
        "delivery_info": {"exchange": queue, "routing_key": queue},
    }
    return orjson.dumps(message)


def reissue(message: dict[str, Any], job_id: str, carried: Mapping[str, str]) -> bytes:
    """One of our messages for a new job with the same input: new ids, of the request that asks for it, all else as it
    was (body, callbacks, the payloads' pointers). `message` as `unpack` gives it; `carried` as for `build`."""
    properties = dict(message["properties"])
    headers = {name: value for name, value in message["headers"].items() if name not in _CARRIED} | dict(carried)
    if headers.get("root_id") == headers.get("id"):
        headers["root_id"] = job_id
    headers["id"] = properties["correlation_id"] = properties["delivery_tag"] = job_id
    return orjson.dumps({**message, "headers": headers, "properties": properties})


def unpack(raw: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """A message, ours or a plain producer's, and its keyword arguments. Raises ValueError when it is not a task
    message with a JSON body."""
    try:
        message = orjson.loads(raw)
        if message["content-type"] != "application/json":
            raise ValueError(f"its content type is {message['content-type']}")
        body = message["body"]
        if message["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        _, kwargs, _ = orjson.loads(body)
        headers = message["headers"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not a task message: {error}") from None
    if not isinstance(kwargs, dict) or not isinstance(headers, dict):
        raise ValueError("its headers and its arguments must be objects")
    if too_deep(message) or too_deep(kwargs):
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    return message, kwargs
