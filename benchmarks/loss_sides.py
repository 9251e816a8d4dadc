"""The two sides of the loss benchmark: a plain Celery worker and ours, each started again at once when it ends, as
`restart: always` does. Same server, same jobs, same blows, the same judgement."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from benchmarks.loss_runs import VARIABLE, starts
from benchmarks.loss_task import HELD, LEASE_S, SETTINGS
from local.server import tethered
from shared import keys, messages, scripts

ROOT = Path(__file__).resolve().parents[1]
QUEUE = keys.queue_name("loss", "1")
MODELS = f"""
models:
  loss:
    handler: {ROOT}/benchmarks/loss_handler.py:Loss
    versions: {{"1": {{}}}}
    batch: {{max_size: {HELD // 2}}}
"""
DAY_MS = 86_400_000
ENDS = {"SUCCESS", "FAILURE", "REVOKED"}
Order = dict[str, Any]  # number, ms, abort, payload: the arguments of one job


class Side:
    """One worker, and the jobs given to it."""

    name = ""

    def __init__(self, store: redis.Redis, url: str, folder: Path) -> None:
        self.store, self.url, self.folder = store, url, folder
        self.restarts = -1
        self.jobs = 0
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Of the worker."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Of the worker, beside ours."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the worker takes messages."""
        raise NotImplementedError

    def submit(self, orders: list[Order]) -> None:
        """Accepted when it returns."""
        raise NotImplementedError

    def held(self) -> Iterator[dict[str, Any]]:
        """The messages that are filed as unacked."""
        raise NotImplementedError

    def watch(self) -> None:
        """Start the worker, and again when it has ended by itself."""
        if self._process is None or self._process.poll() is not None:
            self.restarts += 1
            self._process = subprocess.Popen(
                tethered([sys.executable, *self.command()], signal.SIGKILL),
                cwd=ROOT,
                env=os.environ | {VARIABLE: str(self.folder / "runs"), "PYTHONWARNINGS": "ignore"} | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(self.folder / f"{self.name}.log").open("ab"),
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL to the worker and all its children, as the kernel does to a container that is out of memory."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def outcomes(self) -> dict[int, str]:
        """Status by number of the jobs that have ended."""
        found = self.store.mget([f"{keys.OUTCOME}{_job_id(number)}" for number in range(self.jobs)])
        told = {number: json.loads(raw)["status"] for number, raw in enumerate(found) if raw}
        return {number: status for number, status in told.items() if status in ENDS}

    def left(self) -> int:
        """How many messages are in a list or filed as unacked."""
        lists = sum(self.store.llen(name) for name in self.store.scan_iter(_type="LIST"))
        return lists + self.store.hlen("unacked") + self.store.hlen(keys.UNACKED)

    def waiting(self) -> set[int]:
        """Jobs whose message is in a list or filed as unacked: not lost."""
        lists = [
            json.loads(raw) for name in self.store.scan_iter(_type="LIST") for raw in self.store.lrange(name, 0, -1)
        ]
        ids = [message["headers"].get("id", "") for message in [*lists, *self.held()] if "headers" in message]
        return {int(job_id.removeprefix("loss-")) for job_id in ids if job_id.startswith("loss-")}

    def starts(self) -> Counter[int]:
        """How often each job was started."""
        return starts(self.folder / "runs")


class Stock(Side):
    """Plain Celery: prefork, one process in the pool."""

    name = "stock Celery"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._app = Celery("loss", broker=self.url, backend=self.url, set_as_current=False)
        self._app.conf.update(SETTINGS)

    def command(self) -> list[str]:
        """As Celery's documentation starts it."""
        return ["-m", "celery", "-A", "benchmarks.loss_task", "worker", "-P", "prefork", "-c", "1", "-l", "WARNING"]

    def environment(self) -> dict[str, str]:
        """The app reads its URL there."""
        return {"LOSS_URL": self.url}

    def ready(self) -> bool:
        """It answers a ping."""
        return bool(self._app.control.inspect(timeout=0.5).ping())

    def submit(self, orders: list[Order]) -> None:
        """By `send_task`."""
        for order in orders:
            self._app.send_task("loss.job", kwargs=order, task_id=_job_id(order["number"]))
        self.jobs = len(orders)

    def held(self) -> Iterator[dict[str, Any]]:
        """As kombu files them: [message, exchange, routing key]."""
        for raw in self.store.hvals("unacked"):
            yield json.loads(raw)[0]


class Ours(Side):
    """`python -m worker`; jobs come in by the script that the API calls."""

    name = "ours"

    def command(self) -> list[str]:
        """As anybody starts it."""
        (self.folder / "models.yaml").write_text(MODELS)
        return ["-m", "worker"]

    def environment(self) -> dict[str, str]:
        """Its lease is stock Celery's visibility timeout here."""
        return {
            "ML_REDIS_URL": self.url,
            "ML_MODELS_FILE": str(self.folder / "models.yaml"),
            "ML_WORKER_NAME": "loss",
            "ML_DEVICE": "cpu",
            "ML_LEASE_S": str(LEASE_S),
            "ML_HEARTBEAT_S": "1",
            "ML_LOG_LEVEL": "WARNING",
        }

    def ready(self) -> bool:
        """It shows signs of life."""
        return bool(self.store.keys(f"{keys.WORKER}*"))

    def submit(self, orders: list[Order]) -> None:
        """By the script that the API calls."""
        scripts.run(self.store, [_submit(order) for order in orders])
        self.jobs = len(orders)

    def held(self) -> Iterator[dict[str, Any]]:
        """As the drain script files them: list, newline, message."""
        for raw in self.store.hvals(keys.UNACKED):
            yield json.loads(raw.partition(b"\n")[2])


def _job_id(number: int) -> str:
    return f"loss-{number}"


def _submit(order: Order) -> scripts.Call[scripts.Submitted]:
    job_id, names = _job_id(order["number"]), {"model": "loss", "version": "1"}
    return scripts.submit(
        job_id,
        list_name=keys.queue_list(QUEUE, keys.NORMAL),
        raw=messages.build(job_id, queue=QUEUE, priority=keys.NORMAL, input=order, **names),
        ref="loss@1",
        deadline_ms=DAY_MS,
        ttl_ms=DAY_MS,
        size=len(order["payload"]),
        max_jobs=100_000,
        max_bytes=1_000_000_000,
        fields=names,
    )
