"""How a script is called. Each is one file in `lua/`, one atomic step; `shared/scripts*.py` have a function for each.

A `Call` is one script with its arguments and the parser of its reply; the API runs calls through `arun` (redis.asyncio)
and the worker through `run`, many in one round trip. Both load a script that the server does not know and run it again:
a call that failed so has done nothing.

Key names are made by the scripts from the constants of `shared/keys.py`; one Redis instance holds all of a job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
from redis.exceptions import NoScriptError

from shared import keys
from shared.lua_linker import linked

T = TypeVar("T")

_CONSTANTS = (
    "JOB",
    "OUTCOME",
    "SAID",
    "SAID_TTL_MS",
    "PAYLOAD",
    "OBJECT",
    "STORED",
    "DOOMED",
    "FILE",
    "FILES",
    "IDEMPOTENCY",
    "COUNTERS",
    "DEADLINES",
    "JOBS",
    "UNACKED",
    "HOLDERS",
    "LEASES",
    "DELAYED",
    "DUE",
    "BEAT",
    "LANE",
    "TURNS",
    "OWNED",
    "ACTIVE",
    "USAGE",
    "USAGE_TTL_MS",
    "ANONYMOUS",
    "CELERY",
    "UPLOAD",
    "BATCH",
    "LINES",
    "REFUSED",
    "OPEN",
    "BATCHES",
    "BATCHES_ON",
    "BATCHES_OF",
    "DEAD",
    "WORKER",
    "WORKERS",
    "REGISTRY",
    "PAUSED",
    "PARKED",
    "PARKED_TTL_MS",
    "LATENCY_BOUNDS",
    "WEBHOOKS",
    "HOST",
    "HOOK",
    "HOOK_OFF",
    "HOOK_TTL_MS",
    "HOOK_OFF_TTL_MS",
    "HOOK_COUNTS",
    "HOOK_SECRETS",
)

_PARTS = ("stored", "prelude", "prelude_counts", "prelude_webhooks", "prelude_jobs", "prelude_batches")
_BEFORE = tuple(f"{part}.lua" for part in _PARTS)
_COUNTS = "\nlocal function count_up("


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text with constants and prelude, and its SHA-1."""

    name: str
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """`lua/<name>.lua`, behind what it needs of the preludes. The shebang stays the first line: Redis reads the flags
    from it."""
    folder = files("shared") / "lua"
    shebang, _, body = (folder / f"{name}.lua").read_text().partition("\n")
    constants = "".join(f"local {name} = '{getattr(keys, name)}'\n" for name in _CONSTANTS)
    before = constants + "".join((folder / part).read_text() for part in _BEFORE)
    text = linked(before, body)
    if _COUNTS in text:  # what it has counted is written however it ends
        text = linked(before, f"return counting(function()\n{body}\nend)\n")
    text = f"{shebang}\n{text}"
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One script call, not yet made."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | bytes | int]
    parse: Callable[[Any], T]

    def command(self) -> tuple[Any, ...]:
        """As EVALSHA."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)


def run(client: redis.Redis, calls: Sequence[Call[Any]]) -> list[Any]:
    """All calls in one round trip; their parsed replies, or the ResponseError in the place of a reply.
    Raises ConnectionError or TimeoutError: then it is not known which ran (all scripts may be run again)."""
    pipe = client.pipeline(transaction=False)
    for call in calls:
        pipe.execute_command(*call.command())  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    replies = pipe.execute(raise_on_error=False)
    missed = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if missed:
        for text in {calls[i].script.text for i in missed}:
            client.script_load(text)
        for i, reply in zip(missed, run(client, [calls[i] for i in missed]), strict=True):
            replies[i] = reply
    return _parsed(calls, replies, missed)


def _parsed(calls: Sequence[Call[Any]], replies: list[Any], missed: list[int]) -> list[Any]:
    """What was run again is parsed already."""
    return [
        reply if i in missed or isinstance(reply, Exception) else calls[i].parse(reply)
        for i, reply in enumerate(replies)
    ]


def run_on(connection: redis.Redis, call: Call[T]) -> T:
    """One call on a client that is bound to one connection (a pipeline would take another). Raises as redis-py."""
    try:
        return call.parse(connection.execute_command(*call.command()))  # type: ignore[no-untyped-call]
    except NoScriptError:
        connection.script_load(call.script.text)
        return call.parse(connection.execute_command(*call.command()))  # type: ignore[no-untyped-call]


async def arun(client: redis.asyncio.Redis, calls: Sequence[Call[Any]]) -> list[Any]:
    """As `run`, on the event loop."""
    replies = await _asked(client, calls)
    missed = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if missed:
        for text in {calls[i].script.text for i in missed}:
            await client.script_load(text)
        for i, reply in zip(missed, await arun(client, [calls[i] for i in missed]), strict=True):
            replies[i] = reply
    return _parsed(calls, replies, missed)


async def _asked(client: redis.asyncio.Redis, calls: Sequence[Call[Any]]) -> list[Any]:
    """The replies as they come, errors among them. A pipeline of one takes a fifth longer than what it has in it."""
    if len(calls) == 1:
        try:
            return [await client.execute_command(*calls[0].command())]  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            return [error]
    pipe = client.pipeline(transaction=False)
    for call in calls:
        pipe.execute_command(*call.command())
    replies: list[Any] = await pipe.execute(raise_on_error=False)
    return replies


def one(reply: Any) -> Any:
    """The reply of a list of one call; raises it if it is an error."""
    if isinstance(reply[0], Exception):
        raise reply[0]
    return reply[0]


def iso_now() -> str:
    """For `date_done` in Celery's outcome; nothing is decided by it."""
    return datetime.now(UTC).isoformat()
