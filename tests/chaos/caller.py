"""One process of HTTP callers: `python -m tests.chaos.caller`. SIGTERM: begin nothing new, end when all is answered.
SIGUSR1: hang up in every wait, as a client that loses its network, and go on.

A caller does what a careful backend does: it repeats a call that got no answer with the same Idempotency-Key, honours
Retry-After, and polls the job's URL once it has it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from tests.chaos import access, reference
from tests.chaos.records import Call, Lines

GIVE_UP_S = 90.0
DEBT_S = 10.0
IDLE_CONNECTIONS = 2
_WAIT_S = 20


class Callers:
    """`width` callers who share the numbers `first`, `first + step`, ... and aim at `rate` jobs a second in all."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._seed, self._rate, self._width = options.seed, options.rate, options.width
        self._first, self._numbers = options.first, count(options.first, options.step)
        self._log = Lines(options.log)
        self._http = httpx.AsyncClient(
            base_url=options.url,
            timeout=httpx.Timeout(_WAIT_S + 20, connect=10),
            # Few idle ones: new connections spread over the API processes, and what is connected waits.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=IDLE_CONNECTIONS),
            trust_env=False,
        )
        self._stopping = False
        self._waits: set[asyncio.Task[httpx.Response]] = set()
        self._dropped: set[asyncio.Task[httpx.Response]] = set()

    async def run(self) -> None:
        """Until SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGUSR1, self._drop)
        async with self._http:
            await asyncio.gather(*(self._caller(place) for place in range(self._width)))

    def _stop(self) -> None:
        self._stopping = True

    def _drop(self) -> None:
        self._dropped |= self._waits
        for task in self._waits:
            task.cancel()

    async def _caller(self, place: int) -> None:
        """Asks for one answer or for a few, waits for all, rests until its next turn."""
        rng = random.Random(f"{self._seed}:{self._first}:{place}")
        turn_s = self._width / self._rate
        due = time.monotonic() + rng.random() * turn_s
        while not self._stopping:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            many = 1 if rng.random() < 0.5 else rng.randint(2, 6)
            numbers = [next(self._numbers) for _ in range(many)]
            ask = self._infer if many == 1 else self._queue
            await asyncio.gather(*(ask(n) for n in numbers))
            # What an outage has held up is made up for, as backends with work of their own do.
            due = max(due + many * turn_s * rng.uniform(0.6, 1.4), time.monotonic() - DEBT_S)

    async def _infer(self, n: int) -> None:
        body = {"model_type": reference.MODEL, "data": reference.question(self._seed, n), "deadline_s": 600}
        call = await self._until_answered(n, "inference", "POST", "/inference", json=body)
        if call.status == 504 and call.job_id:
            await self._follow(n, call.job_id)

    async def _queue(self, n: int) -> None:
        data = reference.question(self._seed, n)
        body = {"model": reference.MODEL, "input": data, "priority": reference.priority(n)}
        call = await self._until_answered(n, "jobs", "POST", "/v1/jobs", json=body)
        if call.job_id:
            await self._follow(n, call.job_id)

    async def _follow(self, n: int, job_id: str) -> None:
        give_up = time.monotonic() + GIVE_UP_S
        while True:
            call = await self._until_answered(n, "wait", "GET", f"/v1/jobs/{job_id}?wait={_WAIT_S}")
            if call.state not in ("queued", "running"):
                return
            if time.monotonic() > give_up:
                self._log.write(Call(n, "wait", call.sent, call.ended, 0, "gave up", job_id))
                return

    async def _until_answered(self, n: int, kind: str, method: str, url: str, **body: Any) -> Call:
        """Repeat what got no answer, and what was refused for now."""
        begun = time.monotonic()
        headers = access.of_job(n) | ({"Idempotency-Key": f"{self._seed}-{n}"} if method == "POST" else {})
        while True:
            call, again_s = await self._call(n, kind, method, url, headers=headers, **body)
            self._log.write(call)
            if again_s is None:
                return call
            if time.monotonic() - begun > GIVE_UP_S:
                call = Call(n, kind, begun, time.monotonic(), 0, "gave up", call.job_id)
                self._log.write(call)
                return call
            await asyncio.sleep(again_s)

    async def _call(self, n: int, kind: str, method: str, url: str, **more: Any) -> tuple[Call, float | None]:
        """The call, and after how long to repeat it."""
        sent = time.monotonic()
        task = asyncio.create_task(self._http.request(method, url, **more))
        waits = kind in ("inference", "wait")
        if waits:
            self._waits.add(task)
        try:
            answer = await task
        except httpx.TransportError as error:
            return Call(n, kind, sent, time.monotonic(), 0, type(error).__name__), random.uniform(0.05, 0.3)
        except asyncio.CancelledError:
            if task not in self._dropped:
                raise
            return Call(n, kind, sent, time.monotonic(), 0, "dropped"), random.uniform(0.05, 0.3)
        finally:
            self._waits.discard(task)
            self._dropped.discard(task)
        call = understood(n, kind, sent, answer)
        if call.status == 503 and not call.state:
            return call, min(2.0, float(answer.headers.get("Retry-After", "1")))
        return call, None


def understood(n: int, kind: str, sent: float, answer: httpx.Response) -> Call:
    """What an answer says of its job."""
    now, status = time.monotonic(), answer.status_code
    body: dict[str, Any] = answer.json()
    if status >= 400:
        job_id = str(body.get("job", "")).rpartition("/")[2]
        ended = job_id and body.get("code") != "wait_ended"
        return Call(n, kind, sent, now, status, str(body.get("code")), job_id, "failed" if ended else "")
    if kind == "inference":
        state = "succeeded" if status == 200 else ""
        return Call(n, kind, sent, now, status, "", body.get("job_id") or body["id"], state, body.get("output"))
    return of_job(Call(n, kind, sent, now, status), body)


def of_job(call: Call, job: dict[str, Any]) -> Call:
    """The call, with the job that it was answered with."""
    code = (job.get("error") or {}).get("code", "")
    told = {"job_id": job["id"], "state": job["state"], "output": job.get("output")}
    return replace(call, error=code, finished_at=job.get("finished_at") or "", **told)


def main() -> None:
    """From the driver's command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.caller", description="HTTP callers")
    parser.add_argument("--url", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True)
    for name in ("seed", "first", "step", "width"):
        parser.add_argument(f"--{name}", type=int, required=True)
    asyncio.run(Callers(parser.parse_args()).run())


if __name__ == "__main__":
    main()
