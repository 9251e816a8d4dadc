"""The stock side of the loss benchmark: the app of a plain Celery worker, with what Celery's documentation recommends
for reliability. `celery -A benchmarks.loss_task worker` reads it, so it is made at import."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from benchmarks.loss_runs import record

LEASE_S = 5
HELD = 8  # messages in a worker's hands, on both sides
SETTINGS: dict[str, Any] = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": HELD,  # with one process in the pool
    "broker_channel_error_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "result_backend_always_retry": True,
    "broker_transport_options": {
        # Its defaults are an hour, and a look every 100 s: nothing would come back while anyone watches.
        "visibility_timeout": LEASE_S,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "socket_keepalive": True,
        "health_check_interval": 10,
    },
}
URL = os.environ.get("LOSS_URL", "redis://127.0.0.1:6379/0")

app = Celery("loss", broker=URL, backend=URL)
app.conf.update(SETTINGS)


@app.task(name="loss.job")
def job(number: int, ms: float, abort: bool, payload: str) -> int:
    """Sleeps, and gives its number back. The payload only travels."""
    record(number)
    if abort:
        os.abort()
    time.sleep(ms / 1000)
    return number
