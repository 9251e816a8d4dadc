"""Jobs of a model that does nothing, by the very script and message of the API."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import orjson

from shared import keys, messages, scripts

REF = "echo@1"
QUEUE = keys.queue_name("echo", "1")
LIST = keys.queue_list(QUEUE, keys.NORMAL)


def submit(
    item: Any, *, owner: str = "", ttl_ms: int = 60_000, fields: Mapping[str, str | int] = {}, **more: Any
) -> scripts.Call[scripts.Submitted]:
    """One job with this input. `fields`: of its record, beside those that every job has; `more` as `scripts.submit`
    takes it."""
    job_id = str(uuid.uuid4())
    raw = messages.build(job_id, queue=QUEUE, priority=keys.NORMAL, model="echo", version="1", input=item, owner=owner)
    return scripts.submit(
        job_id,
        list_name=LIST,
        raw=raw,
        ref=REF,
        deadline_ms=3_600_000,
        ttl_ms=ttl_ms,
        size=len(orjson.dumps(item)),
        max_jobs=10**6,
        max_bytes=10**9,
        fields={"model": "echo", "version": "1", "owner": owner or keys.ANONYMOUS, **fields},
        **more,
    )
