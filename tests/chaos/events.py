"""What is done to the stack. Each waits until it would hit work in flight, hits it, and returns when what was hit
serves again. What cannot be known before (who waits on an API process that is killed) the judge asks of the callers.

A process is frozen while it is looked at, so what was seen is what is hit.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from redis.exceptions import RedisError

from local.server import answers
from shared import keys
from shared.redis_url import parse
from tests.chaos import access, reference
from tests.chaos.caller import IDLE_CONNECTIONS
from tests.chaos.journal import Journal
from tests.chaos.records import Event
from tests.chaos.stack import Process, Stack, connections, until

LEASE_S = 4.0
_FIND_S = 30.0  # to find work in flight, under constant load
_TRIES = 5


class Events:
    """`callers`: the processes that hang up when told. One thread."""

    def __init__(self, stack: Stack, journal: Journal, callers: list[Process], rng: random.Random) -> None:
        self._stack, self._journal, self._callers, self._rng = stack, journal, callers, rng
        self._times: dict[str, int] = {}
        self.failed: list[str] = []
        """Processes that did not end as they should."""

    def do(self, kind: str) -> Event:
        """One event. Raises TimeoutError when there was nothing to hit, or nothing came back."""
        number = self._times[kind] = self._times.get(kind, 0) + 1
        actions: dict[str, Callable[[int], Event]] = {
            "worker-kill": self._worker_kill,
            "worker-term": self._worker_term,
            "api-kill": self._api_kill,
            "api-term": self._api_term,
            "redis-kill": lambda number: self._redis_down("redis-kill", number),
            "redis-term": lambda number: self._redis_down("redis-term", number),
            "redis-cut": self._redis_cut,
            "redis-pause": self._redis_pause,
            "callers-drop": self._callers_drop,
            "model-update": self._model_update,
        }
        event = actions[kind](number)
        event.back_s = time.monotonic() - event.at
        return event

    def _worker_kill(self, number: int) -> Event:
        place, victim, jobs = self._frozen_worker()
        event = Event("worker-kill", time.monotonic(), victim.name, jobs, killed=victim.name)
        victim.kill()
        self._replace_worker(place)
        return event

    def _worker_term(self, number: int) -> Event:
        place, victim, jobs = self._frozen_worker()
        event = Event("worker-term", time.monotonic(), victim.name, jobs)
        victim.thaw(signal.SIGTERM)
        self._expect_clean(victim, event)
        self._replace_worker(place)
        return event

    def _frozen_worker(self) -> tuple[int, Process, int]:
        """One that stands still in the middle of a batch, its place, and how many jobs the batch has."""
        give_up = time.monotonic() + _FIND_S
        while time.monotonic() < give_up:
            place = self._rng.randrange(len(self._stack.workers))
            victim = self._stack.workers[place]
            victim.freeze()
            jobs = self._journal.in_progress([victim.name])
            if jobs:
                return place, victim, jobs
            victim.thaw()
            time.sleep(0.01)
        raise TimeoutError("no worker had a batch in progress")

    def _replace_worker(self, place: int) -> None:
        self._stack.workers[place] = self._stack.begin_worker()
        self._stack.ready(self._stack.workers[place])

    def _api_kill(self, number: int) -> Event:
        place, victim = self._busy_api()
        event = Event("api-kill", time.monotonic(), victim.name)
        victim.kill()
        self._replace_api(place)
        return event

    def _api_term(self, number: int) -> Event:
        """A rolling restart: the next one starts while this one drains. How many waited on it, it tells itself; one
        that had just answered all is no event."""
        for missed in range(_TRIES):
            place, victim = self._busy_api()
            event = Event("api-term", time.monotonic(), victim.name, notes={"missed": missed})
            victim.thaw(signal.SIGTERM)
            self._replace_api(place)
            self._expect_clean(victim, event)
            event.hit = _waiting(victim.log)
            if event.hit:
                break
        return event

    def _busy_api(self) -> tuple[int, Process]:
        """One that stands still with callers connected; some more come while it does."""
        give_up = time.monotonic() + _FIND_S
        while time.monotonic() < give_up:
            place = self._rng.randrange(len(self._stack.apis))
            victim = self._stack.apis[place]
            victim.freeze()
            time.sleep(0.1)
            if connections(victim.pid, self._stack.port) > IDLE_CONNECTIONS * len(self._callers):
                return place, victim
            victim.thaw()
            time.sleep(0.01)
        raise TimeoutError("no API process had callers")

    def _replace_api(self, place: int) -> None:
        self._stack.apis[place] = self._stack.begin_api()
        self._stack.ready(self._stack.apis[place])

    def _expect_clean(self, victim: Process, event: Event) -> None:
        code = victim.wait()
        event.notes["stopped_s"] = round(time.monotonic() - event.at, 2)
        if code != 0:
            self.failed.append(f"{victim.name} ended with {code} after SIGTERM")

    def _redis_down(self, kind: str, number: int) -> Event:
        """Short the first time, longer than a lease the second, in turn."""
        server = self._stack.server
        down_s = LEASE_S * (self._rng.uniform(0, 0.3) if number % 2 else self._rng.uniform(1.1, 1.5))
        hit = self._held_and_computed()
        told = self._stack.client.info("persistence")
        event = Event(kind, time.monotonic(), "redis", hit, notes={"down_s": round(down_s, 1)})
        event.notes |= {name: told.get(name) for name in ("aof_pending_bio_fsync", "aof_buffer_length")}
        server.kill() if kind == "redis-kill" else server.stop()
        event.notes["computing"] = self._computing()
        time.sleep(down_s)
        server.start()
        return event

    def _redis_cut(self, number: int) -> Event:
        """Every connection, of callers' Celery too; but this one."""
        hit = self._held_and_computed()
        event = Event("redis-cut", time.monotonic(), "redis", hit)
        pipe = self._stack.client.pipeline(transaction=False)
        for kind in ("normal", "pubsub"):
            pipe.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        event.notes["connections"] = sum(pipe.execute())
        return event

    def _redis_pause(self, number: int) -> Event:
        """Longer than half a lease the first time, than a whole one the second, in turn."""
        pause_s = LEASE_S * (self._rng.uniform(0.55, 0.9) if number % 2 else self._rng.uniform(1.1, 1.4))
        hit = self._held_and_computed()
        event = Event("redis-pause", time.monotonic(), "redis", hit, notes={"pause_s": round(pause_s, 1)})
        self._stack.client.client_pause(int(pause_s * 1000))
        until(lambda: answers(parse(self._stack.server.url)), pause_s + 10, "Redis answers again")
        return event

    def _held_and_computed(self) -> int:
        """Messages that workers hold, some being computed."""
        held = 0

        def found() -> bool:
            nonlocal held
            try:
                held = int(self._stack.client.hlen(keys.UNACKED))
            except RedisError:  # this connection was cut, too, or Redis has restarted under it
                return False
            return held > 0 and self._computing() > 0

        until(found, _FIND_S, "work in flight")
        return held

    def _computing(self) -> int:
        return self._journal.in_progress([worker.name for worker in self._stack.workers if worker.lives()])

    def _callers_drop(self, number: int) -> Event:
        event = Event("callers-drop", time.monotonic(), "callers")
        for process in self._callers:
            process.popen.send_signal(signal.SIGUSR1)
        return event

    def _model_update(self, number: int) -> Event:
        """A new version takes all the traffic. The second time, in turn, the next event comes while it does."""
        hit = self._held_and_computed()
        version = str(number + 1)
        event = Event("model-update", time.monotonic(), f"{reference.MODEL}@{version}", hit)
        until(lambda: self._ask("PUT", f"/versions/{version}?replace=true") is not None, _FIND_S, "the API takes it")
        if number % 2:
            until(lambda: self._switched(version), _FIND_S, "the traffic switches")
            event.notes["switched_s"] = round(time.monotonic() - event.at, 2)
        return event

    def _switched(self, version: str) -> bool:
        told = self._ask("GET", "")
        return told is not None and told["rollout"] is None and list(told["traffic"]) == [version]

    def _ask(self, method: str, path: str) -> dict[str, Any] | None:
        """None while it is not answered well."""
        try:
            url = f"{self._stack.url}/v1/models/{reference.MODEL}{path}"
            body = {} if method == "PUT" else None
            answer = httpx.request(method, url, json=body, headers=access.ADMIN, timeout=10, trust_env=False)
        except httpx.TransportError:
            return None
        return answer.json() if answer.is_success else None


def _waiting(log: Path) -> int:
    """How many callers an API process held when it was told to stop, by its log."""
    for line in log.read_text().splitlines():
        if line.startswith("{") and (told := json.loads(line))["event"] == "stopping":
            return int(told["waiting"])
    return 0
