"""Jobs that are a link of somebody's chain, group or chord, or have callbacks: what follows is called by Celery's own
canvas, as a stock worker's tracer (celery/app/trace.py) does it.

What follows is called first, then the outcome stands, then a chord's part is counted, then the message is acknowledged:
wherever this process dies in between, the message comes again (restore.lua gives it back though its job has ended, for
the record says `linked`), and what is called twice has the same task id. What Celery cannot call is logged, and the
outcome stands all the same: it would fail in each worker that has the message.
https://docs.celeryq.dev/en/stable/userguide/canvas.html
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
import redis
from celery import Celery, group, states
from celery.app.task import Context
from celery.canvas import Signature, maybe_signature
from kombu.exceptions import OperationalError

from shared import keys
from shared.logs import Event, get_logger
from shared.outcomes import encode_output
from shared.scripts import Finished
from shared.store import RETRY_S, may_pass
from shared.types import Outcome, State
from worker.report import JobFailed
from worker.work import Work

logger = get_logger("worker")


def is_linked(request: Any) -> bool:
    """Whether anything hangs on this message's outcome."""
    embed = request._payload[2]
    if not isinstance(embed, dict):
        return False
    return bool(embed.get("callbacks") or embed.get("errbacks") or embed.get("chain") or embed.get("chord"))


def wrong_link(embed: Any) -> str:
    """Why what hangs on a message could never be called; empty where it can be, as far as its shape tells."""
    if not isinstance(embed, dict):
        return ""
    for name in ("callbacks", "errbacks", "chain"):
        calls = embed.get(name) or []
        if not isinstance(calls, list) or not all(map(_is_signature, calls)):
            return f"{name} must be a list of Celery signatures"
    if embed.get("chord") and not _is_signature(embed["chord"]):
        return "chord must be a Celery signature"
    return ""


def _is_signature(call: Any) -> bool:
    if not isinstance(call, dict) or not isinstance(call.get("task"), str):
        return False
    kind = call.get("subtask_type")
    return kind is None or (isinstance(kind, str) and kind in Signature.TYPES)


class Links:
    """One thread at a time, who has the finisher's turn; every method takes as long as Redis is away."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def end(self, work: Work, outcome: Outcome, write: Callable[[], Finished]) -> Finished:
        """`write` writes the outcome, and leaves the message unacknowledged; what it gives."""
        told: list[Finished] = []

        def stand() -> None:
            told.append(self._stubborn(work, write))

        if self._stubborn(work, lambda: self._app.backend.client.hget(f"{keys.JOB}{work.job_id}", "canceled")):
            self._revoked(work, "the job was canceled", stand)
        elif outcome.state is State.SUCCEEDED:
            self._succeeded(work, orjson.loads(encode_output(outcome)), stand)
        elif outcome.state is State.FAILED and outcome.code != "deadline_exceeded":
            self._failed(work, f"{outcome.code}: {outcome.message}", stand)
        else:
            self._revoked(work, outcome.message, stand)
        return told[0]

    def again(self, work: Work) -> None:
        """The outcome stood already when the message came (again): what hangs on it may not know."""
        raw = self._stubborn(work, lambda: self._app.backend.client.get(f"{keys.OUTCOME}{work.job_id}"))
        meta = orjson.loads(raw) if raw else {}
        if meta.get("status") == states.SUCCESS:
            self._succeeded(work, meta["result"])
        elif meta.get("status") == states.FAILURE:
            error = meta.get("ml", {}).get("error", {})
            self._failed(work, f"{error.get('code')}: {error.get('message')}")
        else:
            self._revoked(work, "revoked")

    def _succeeded(self, work: Work, output: Any, stand: Callable[[], None] = lambda: None) -> None:
        context = self._context(work)
        self._tell(work, lambda: self._call_next(work, output, context))
        stand()
        self._tell(work, lambda: self._app.backend.mark_as_done(work.job_id, output, context, False))

    def _call_next(self, work: Work, output: Any, context: Context) -> None:
        following = {"parent_id": work.job_id, "root_id": context.root_id or work.job_id}
        for signature in self._callbacks(context):
            self._patient(work, partial(signature.apply_async, (output,), **following))
        if context.chain:
            *rest, following_one = context.chain
            call = maybe_signature(following_one, app=self._app)
            self._patient(work, partial(call.apply_async, (output,), chain=rest, **following))

    def _callbacks(self, context: Context) -> list[Any]:
        calls = [maybe_signature(one, app=self._app) for one in context.callbacks or ()]
        groups = [call for call in calls if isinstance(call, group)]
        return groups + [call for call in calls if not isinstance(call, group)]

    def _failed(self, work: Work, message: str, stand: Callable[[], None] = lambda: None) -> None:
        stand()
        error, context = JobFailed(message), self._context(work)
        self._tell(
            work, lambda: self._app.backend.mark_as_failure(work.job_id, error, request=context, store_result=False)
        )

    def _revoked(self, work: Work, reason: str, stand: Callable[[], None] = lambda: None) -> None:
        stand()
        context = self._context(work)
        self._tell(
            work, lambda: self._app.backend.mark_as_revoked(work.job_id, reason, request=context, store_result=False)
        )

    def _context(self, work: Work) -> Context:
        args, kwargs, embed = work.request._payload
        told = {**work.request.request_dict, **(embed or {}), "args": args, "kwargs": kwargs}
        return Context(told, called_directly=False)

    def _tell(self, work: Work, call: Callable[[], Any]) -> None:
        if wrong_link(work.request._payload[2]):
            return  # why the job was refused; Celery would make something of part of it
        try:
            self._patient(work, call)
        except Exception as error:  # whatever Celery raises for what a producer has written there
            logger.error(Event.LINK_FAILED, **work.names, error=error, exc_info=error)

    def _patient(self, work: Work, call: Callable[[], Any]) -> Any:
        """Raises what waiting never mends, such as a key of another kind."""
        while True:
            try:
                return call()
            except (redis.RedisError, OperationalError) as error:
                cause = error.__cause__ if isinstance(error, OperationalError) else error
                if isinstance(cause, redis.RedisError) and not may_pass(cause):
                    raise
                self._wait(work, error)

    def _stubborn(self, work: Work, call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except redis.RedisError as error:
                self._wait(work, error)

    def _wait(self, work: Work, error: Exception) -> None:
        logger.warning(Event.REDIS_LOST, **work.names, step="links", error=error)
        time.sleep(RETRY_S)
