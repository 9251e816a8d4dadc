"""Somebody else's Celery on the same Redis: stock transport, stock settings, workers started in the usual way."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from tests.conftest import wait_until


def close_celery(app: Celery) -> None:
    """All of its connections. Celery leaves those of its result backend, and to the sentinels, to the collector."""
    app.backend.result_consumer.stop()
    pool = app.backend.client.connection_pool
    if hasattr(pool, "sentinel_manager"):
        pool.sentinel_manager.close()
    pool.disconnect()
    app.close()


@contextmanager
def stock_app(redis_url: str, **conf: Any) -> Iterator[Celery]:
    """A producer of it, in this process."""
    app = Celery("backend", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.update(conf)
    try:
        yield app
    finally:
        close_celery(app)
        with warnings.catch_warnings():
            # After a lost connection Celery's result consumer leaves its whole pool to the collector (its
            # `_reconnect_pubsub`); better here than in the middle of another test, which would be blamed for it.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@contextmanager
def stock_worker(
    module: Path, redis_url: str, name: str, *arguments: str, **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`celery -A MODULE worker`, answering when it yields; stopped by SIGTERM at the end if the test has not ended
    it. `module` is a file with the app; it reads the URL from `STOCK_URL`."""
    command = [sys.executable, "-m", "celery", "-A", module.stem, "worker", "-n", f"{name}@stock", "-l", "ERROR"]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=module.parent,
        # Celery itself warns: of root, of settings that its next version drops.
        env=os.environ | {"STOCK_URL": redis_url, "PYTHONWARNINGS": "ignore"} | env,
    )
    try:
        with stock_app(redis_url) as app:

            def answers() -> bool:
                assert process.poll() is None, "the stock worker has exited"
                return bool(app.control.inspect(destination=[f"{name}@stock"], timeout=0.5).ping())

            wait_until(answers, timeout_s=60, what=f"stock worker {name} answers")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        with redis.Redis.from_url(redis_url) as store:
            # A stock worker's reply that comes just when its asker has gone has no TTL. (Ours have one.)
            for late in store.scan_iter(match="*.reply.celery.pidbox", count=1000):
                store.delete(late)
