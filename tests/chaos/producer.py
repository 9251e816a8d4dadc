"""One process of a backend that only has stock Celery: `python -m tests.chaos.producer`. SIGTERM: send nothing new,
end when all is answered."""

from __future__ import annotations

import argparse
import random
import signal
import time
import uuid
from itertools import count
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError as NotYet
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tests.chaos import reference
from tests.chaos.caller import DEBT_S, GIVE_UP_S
from tests.chaos.records import Call, Lines

# Celery's result consumer raises RuntimeError when it could not connect again: "the application must be restarted".
_LOST = (OperationalError, RedisError, OSError, RuntimeError)
_STATES = {"SUCCESS": "succeeded", "FAILURE": "failed", "REVOKED": "canceled"}


class Producer:
    """Sends a few tasks, gets all results, rests until its next turn."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._url, self._seed, self._rate = options.url, options.seed, options.rate
        self._numbers = count(options.first, options.step)
        self._log = Lines(options.log)
        self._app = self._new_app()
        self._stopping = False

    def run(self) -> None:
        """Until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        rng = random.Random(f"{self._seed}:producer")
        due = time.monotonic()
        while not self._stopping:
            time.sleep(max(0.0, due - time.monotonic()))
            sent = [(n, self._send(n)) for n in (next(self._numbers) for _ in range(rng.randint(1, 8)))]
            for n, task_id in sent:
                if task_id:
                    self._result(n, task_id)
            due = max(due + len(sent) / self._rate, time.monotonic() - DEBT_S)
        self._app.close()

    def _stop(self) -> None:
        self._stopping = True

    def _new_app(self) -> Celery:
        return Celery("backend", broker=self._url, backend=self._url, set_as_current=False)

    def _send(self, n: int) -> str:
        """The task's id, '' when it could not be sent. Sent again under the same id after an error."""
        kwargs = {"model": reference.MODEL, "input": reference.question(self._seed, n)}
        task_id, begun = str(uuid.uuid4()), time.monotonic()
        while True:
            sent = time.monotonic()
            try:
                self._app.send_task("ml.predict", kwargs=kwargs, queue="ml", task_id=task_id)
            except _LOST as error:
                if not self._again(n, "send_task", begun, sent, error):
                    return ""
            else:
                self._log.write(Call(n, "send_task", sent, time.monotonic(), 202, "", task_id))
                return task_id

    def _result(self, n: int, task_id: str) -> None:
        begun = time.monotonic()
        while True:
            sent = time.monotonic()
            result = self._app.AsyncResult(task_id)
            try:
                output = result.get(timeout=5, propagate=False)
                state = _STATES[result.state]
            except NotYet as error:
                if not self._again(n, "result", begun, sent, error):
                    return
            except _LOST as error:
                if not self._again(n, "result", begun, sent, error):
                    return
                self._app.close()
                self._app = self._new_app()
            else:
                self._log.write(self._answer(n, sent, task_id, state, output))
                return

    def _answer(self, n: int, sent: float, task_id: str, state: str, output: Any) -> Call:
        now = time.monotonic()
        if state == "succeeded":
            return Call(n, "result", sent, now, 200, "", task_id, state, output)
        return Call(n, "result", sent, now, 200, type(output).__name__, task_id, state)

    def _again(self, n: int, kind: str, begun: float, sent: float, error: Exception) -> bool:
        """Log a call that got nothing; False when it is time to give up."""
        now = time.monotonic()
        self._log.write(Call(n, kind, sent, now, 0, type(error).__name__))
        if now - begun > GIVE_UP_S:
            self._log.write(Call(n, kind, begun, now, 0, "gave up"))
            return False
        time.sleep(0.2)
        return True


def main() -> None:
    """From the driver's command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.producer", description="a stock Celery producer")
    parser.add_argument("--url", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True)
    for name in ("seed", "first", "step"):
        parser.add_argument(f"--{name}", type=int, required=True)
    Producer(parser.parse_args()).run()


if __name__ == "__main__":
    main()
