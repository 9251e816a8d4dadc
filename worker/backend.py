"""Celery's result backend in the worker: every outcome goes through the scripts, whoever writes it.

Celery writes outcomes by itself too (a revoke on every worker, unknown tasks, expired messages); stock it would
overwrite ours and leave the waiter asleep. https://docs.celeryq.dev/en/stable/internals/reference/
"""

from __future__ import annotations

from typing import Any

import redis
from celery import states
from celery.backends.redis import RedisBackend

from shared import keys, scripts
from shared.types import State

_STATES = {states.SUCCESS: State.SUCCEEDED, states.FAILURE: State.FAILED, states.REVOKED: State.CANCELED}


class OutcomeBackend(RedisBackend):  # type: ignore[misc]  # celery ships no types
    """Any thread of the worker. It knows no URL: `store` is a client of ours, whatever kind of Redis that leads to."""

    store: redis.Redis  # set by `outcome_backend`

    def _create_client(self, **params: Any) -> redis.Redis:
        return self.store

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """A terminal state ends the job if it has no outcome yet; a revoke of a running one only marks it."""
        if state not in _STATES:
            return result  # STARTED, RETRY: the record knows
        if state == states.REVOKED and scripts.one(scripts.run(self.client, [scripts.cancel(task_id)])) is not None:
            return result
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id
        message = str(getattr(result, "args", [""])[0] if not isinstance(result, dict) else result.get("exc_message"))
        code = "canceled" if state == states.REVOKED else "predict_error"
        meta["ml"] = {"error": {"code": code, "message": message}} if state != states.SUCCESS else {}
        call = scripts.finish(
            task_id,
            tag="",
            state=_STATES[state],
            code="" if state == states.SUCCESS else code,
            meta=self.encode(meta).encode(),
            ttl_ms=int(self.expires or 3600) * 1000,
        )
        scripts.one(scripts.run(self.client, [call]))
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """STARTED is answered from the record: it is never written."""
        meta: dict[str, Any] = super()._get_task_meta_for(task_id)
        if meta["status"] == states.PENDING and self.client.hget(keys.JOB + task_id, "state") == b"running":
            meta["status"] = states.STARTED
        return meta


def outcome_backend(store: redis.Redis) -> type[OutcomeBackend]:
    """The backend class for one app."""
    return type("OutcomeBackend", (OutcomeBackend,), {"store": store, "__module__": __name__})
