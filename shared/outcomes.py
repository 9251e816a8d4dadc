"""How a job ended, on the wire: Celery's result format, so that `AsyncResult(id).get()` works, plus our own part.

    succeeded            SUCCESS, result = the output
    failed               FAILURE, exc_type = error code
    canceled             REVOKED
    deadline_exceeded    REVOKED "expired"

`meta["ml"]` holds what Celery has no field for: error, timing, attempt, started_at (ms), tokens, faults of a
partial job, and `stored`, the reference of an output that lies in the payload store: `result` then only says where it
is read.
https://docs.celeryq.dev/en/stable/internals/protocol.html and celery.backends.base (`_get_result_meta`).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson

from shared.calls import iso_now
from shared.errors import RecordUnreadable
from shared.keys import NORMAL, PRIORITY_WORDS, nearest_priority
from shared.payload_place import PayloadRef
from shared.types import Job, Outcome, Problem, Progress, State, Timing, from_ms

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def encode_outcome(job_id: str, outcome: Outcome, *, attempt: int = 0, started_at: int = 0) -> bytes:
    """The outcome as it is stored. Raises TypeError when the output is not JSON data (numpy arrays, pydantic models
    and dataclasses are; bytes become base64, as they are in inputs)."""
    ours: dict[str, Any] = {"timing": outcome.timing, "attempt": attempt, "started_at": started_at}
    if outcome.tokens:
        ours["tokens"] = outcome.tokens
    if outcome.stored:
        ours["stored"] = outcome.stored
    faults = [fault.model_dump() for fault in outcome.faults]
    if outcome.state is State.SUCCEEDED:
        status, result = "SUCCESS", outcome.output
        if outcome.stored:
            result = {"output_url": output_url(job_id), "bytes": outcome.stored_bytes}
        if faults:
            ours["faults"] = faults
    else:
        if outcome.state is State.CANCELED or outcome.code == "deadline_exceeded":
            status, exc_type, exc_module = "REVOKED", "TaskRevokedError", "celery.exceptions"
        else:
            status, exc_type, exc_module = "FAILURE", outcome.code or "predict_error", "ml_service"
        result = {"exc_type": exc_type, "exc_message": [outcome.message], "exc_module": exc_module}
        ours["error"] = {"code": outcome.code, "message": outcome.message} | ({"errors": faults} if faults else {})
    meta = {
        "status": status,
        "result": result,
        "traceback": None,
        "children": [],
        "date_done": iso_now(),
        "task_id": job_id,
        "ml": ours,
    }
    return orjson.dumps(meta, option=_OPTIONS, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if hasattr(value, "model_dump"):
        return value.model_dump(exclude_none=True)
    raise TypeError(f"{type(value).__name__} is not JSON data")


def encode_output(outcome: Outcome) -> bytes:
    """The output alone, as JSON. Raises TypeError as `encode_outcome`."""
    return orjson.dumps(outcome.output, option=_OPTIONS, default=_plain)


def output_url(job_id: str) -> str:
    """Where the API hands on an output; relative, so that it is right behind any proxy."""
    return f"/v1/jobs/{job_id}/output"


def stored_output(meta: bytes) -> PayloadRef | None:
    """Where the output lies, if not in the outcome itself. Raises RecordUnreadable."""
    if b'"stored":' not in meta:  # a quick no spares reading the outcome
        return None
    with readable():
        text = orjson.loads(meta).get("ml", {}).get("stored")
        return None if text is None else PayloadRef.parse(text)


@contextmanager
def readable() -> Iterator[None]:
    """Around what reads a record or an outcome, which somebody else may have written. Raises RecordUnreadable for all
    that a wrong one makes Python raise."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, OSError) as error:
        raise RecordUnreadable from error


@readable()
def job_view(job_id: str, record: dict[str, str], meta: bytes) -> Job:
    """A job as HTTP shows it, from its record and (once it ended) its outcome. Raises RecordUnreadable."""
    outcome = orjson.loads(meta) if meta else {}
    ours = outcome.get("ml", {})
    state = State(record["state"])
    created_at, started_at = int(record["created_at"]), int(ours.get("started_at") or record.get("started_at") or 0)
    timing = Timing.model_validate(ours.get("timing", {}))
    if timing.queue_ms is None and started_at:
        timing.queue_ms = max(0, started_at - created_at)
    stored = "stored" in ours
    error = Problem.model_validate(ours["error"]) if "error" in ours else None
    return Job(
        id=job_id,
        model=record["model"],
        version=record["version"],
        fallback_for=record.get("fallback_for"),
        state=state,
        output=outcome.get("result") if state is State.SUCCEEDED and not stored else None,
        output_url=output_url(job_id) if stored else None,
        error=error,
        errors=ours.get("faults"),
        created_at=datetime.fromtimestamp(created_at / 1000, UTC),
        started_at=from_ms(started_at),
        finished_at=from_ms(record.get("finished_at")),
        deadline_at=from_ms(record.get("deadline_at")),
        progress=_progress(record, state),
        attempt=int(ours.get("attempt") or record.get("attempt", 0)),
        priority=PRIORITY_WORDS[nearest_priority(int(record.get("priority", NORMAL)))],
        batch=record.get("batch"),
        timing=timing,
        labels=orjson.loads(record.get("labels", "{}")),
        letter=record.get("letter"),
        retried_from=record.get("retried_from"),
        request_id=record.get("request_id"),
    )


def _progress(record: dict[str, str], state: State) -> Progress | None:
    if "progress" not in record:
        return None
    told = Progress.model_validate(orjson.loads(record["progress"]) | {"at": from_ms(record["progress_at"])})
    if state is State.SUCCEEDED:  # the last that was told came before the end
        told.fraction = 1.0
    return told
