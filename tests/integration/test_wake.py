"""No wake-up is lost: whatever pushes, an idle consumer on the worker's transport gets it without its safety tick.

The event loop here has no timers and never turns without an event, so a lost wake-up would be a message that never
comes. Pushes come in bursts at random moments, each burst into a consumer that has fallen idle or is about to.
"""

from __future__ import annotations

import queue as queues
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer
from kombu.asynchronous import Hub
from kombu.transport import TRANSPORT_ALIASES

from shared import keys, messages, scripts
from shared.queue import make_celery, queue
from shared.redis_url import parse
from shared.settings import Settings
from shared.types import State
from tests.conftest import wait_until
from worker import transport
from worker.holdings import Holdings

SEED = 20261125
BURSTS, LARGEST = 700, 8
ROOM = 2  # of each list: less than a burst may bring, so that room must be waited for too
MODELS = [f"m{n}" for n in range(64)]
MINUTE_MS = 60_000


class _Poller:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def poll(self, timeout: float | None) -> Any:
        return self._inner.poll(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Loop(Hub):  # type: ignore[misc]  # kombu ships no types
    """No timers, and no turn without an event."""

    def _create_poller(self) -> None:
        super()._create_poller()
        self._poller = _Poller(self._poller)

    def call_repeatedly(self, delay: float, callback: Any, *args: Any) -> None:
        """The tick, and kombu's own checks."""


class Idler:
    """A consumer of all queues, in a thread. What it gets it works on for a moment in another thread, as a worker
    does, and then finishes; some it gives back once."""

    def __init__(self, redis_url: str, transport_class: Any, holdings: Holdings, odd: Callable[[str], bool]) -> None:
        self.seen: Counter[str] = Counter()
        self._url, self._transport, self._holdings, self._odd = redis_url, transport_class, holdings, odd
        self._hub = _Loop()
        self._work: queues.SimpleQueue[Any] = queues.SimpleQueue()
        self._stop = False
        self._threads = [threading.Thread(target=run) for run in (self._consume, self._finish)]

    def __enter__(self) -> Idler:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop = True
        self._work.put(None)
        self._hub.call_soon(lambda: None)
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _consume(self) -> None:
        options = make_celery(Settings()).conf.broker_transport_options
        with Connection(self._url, transport=self._transport, transport_options=options) as connection:
            names = [queue(keys.queue_name(model, "1")) for model in MODELS]
            consumer = Consumer(connection.channel(), names, on_message=self._work.put)
            connection.register_with_event_loop(self._hub)
            consumer.consume()
            loop = self._hub.create_loop()
            while not self._stop:
                next(loop)
            self._hub.close()

    def _finish(self) -> None:
        client, chance = redis.Redis.from_url(self._url), random.Random(SEED)
        while message := self._work.get():
            time.sleep(chance.choice((0, 0, 0.0005, 0.002)))
            job_id, tag = message.properties["correlation_id"], message.delivery_tag
            self.seen[job_id] += 1
            if self.seen[job_id] == 1 and self._odd(job_id):
                self._hub.call_soon(message.requeue)
                continue
            end = scripts.finish(job_id, tag=tag, state=State.SUCCEEDED, code="", meta=b"{}", ttl_ms=MINUTE_MS)
            scripts.one(scripts.run(client, [end]))
            self._holdings.release(tag)
            self._hub.call_soon(message.ack)
        client.close()


@pytest.fixture
def idler(redis_url: str, store: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Idler]:
    """Connected, and idle."""
    for scheme in list(TRANSPORT_ALIASES):  # what `install` changes is put back
        monkeypatch.setitem(TRANSPORT_ALIASES, scheme, TRANSPORT_ALIASES[scheme])
    stock = TRANSPORT_ALIASES["redis"]
    holdings = Holdings("p", lambda _: ROOM)
    transport.install(holdings, on_tick=lambda: None, address=parse(redis_url))
    lossless = TRANSPORT_ALIASES["redis"]()
    TRANSPORT_ALIASES["redis"] = stock
    with Idler(redis_url, lossless, holdings, odd=lambda job_id: job_id.endswith("7")) as running:
        wait_until(lambda: store.info("clients")["tracking_clients"] == 1, what="it listens")
        yield running


class Pushers:
    """All that push: our submit, of a key in its lane too, a stock producer (a plain LPUSH), and the restore of what a
    dead worker held."""

    def __init__(self, redis_url: str) -> None:
        self._client = redis.Redis.from_url(redis_url)
        # As workers do all the time: who has not looked for long takes expired leases for an outage.
        scripts.run(self._client, [scripts.restore_expired(lease_ms=MINUTE_MS, heartbeat_ms=MINUTE_MS)])
        self._stock = Connection(redis_url, transport="kombu.transport.redis:Transport")
        self._producer = self._stock.Producer(serializer="json")
        self._lock = threading.Lock()  # kombu's producer is for one thread

    def prepare(self, kind: str, job_id: str, model: str, priority: int) -> Callable[[], Any]:
        """What is left to do is the push itself."""
        name = keys.queue_name(model, "1")
        target = keys.queue_list(name, priority)
        raw = messages.build(job_id, queue=name, priority=priority, model=model, version="1", input=None)
        if kind == "stock":
            return lambda: self._publish(name, job_id, priority)
        if kind == "restore":
            self._client.hset(keys.UNACKED, job_id, f"{target}\n".encode() + raw)
            self._client.zadd(keys.LEASES, {job_id: 0})
            return lambda: scripts.run(
                self._client, [scripts.restore_expired(lease_ms=MINUTE_MS, heartbeat_ms=MINUTE_MS)]
            )
        call = scripts.submit(
            job_id,
            list_name=target,
            raw=raw,
            ref=f"{model}@1",
            deadline_ms=MINUTE_MS,
            ttl_ms=MINUTE_MS,
            size=1,
            max_jobs=1000,
            max_bytes=1000,
            share=scripts.Share("key:a" if kind == "keyed" else ""),
            fields={"owner": "key:a"} if kind == "keyed" else {},
        )
        return lambda: scripts.one(scripts.run(self._client, [call]))

    def _publish(self, name: str, job_id: str, priority: int) -> None:
        with self._lock:
            self._producer.publish(
                {}, routing_key=name, priority=priority, correlation_id=job_id, headers={"id": job_id}
            )

    def close(self) -> None:
        """Of both connections."""
        self._stock.release()
        self._client.close()


@pytest.mark.long
def test_no_wake_up_is_lost(idler: Idler, redis_url: str, store: redis.Redis) -> None:
    chance, pushers, pushed = random.Random(SEED), Pushers(redis_url), Counter[str]()
    with ThreadPoolExecutor(LARGEST) as threads:
        for burst in range(BURSTS):
            pushes = []
            for n in range(chance.choice((1, 1, 2, 3, LARGEST))):
                job_id, kind = f"{burst}-{n}", chance.choice(("submit", "keyed", "stock", "restore"))
                model, priority = chance.choice(MODELS), chance.choice(keys.PRIORITIES)
                pushes.append((chance.choice((0, 0, 0.0003, 0.001)), pushers.prepare(kind, job_id, model, priority)))
                pushed[job_id] += 1 + job_id.endswith("7")
            list(threads.map(lambda push: (time.sleep(push[0]), push[1]()), pushes))
            wait_until(lambda: idler.seen.total() == pushed.total(), timeout_s=20, what=f"burst {burst}, seed {SEED}")
    pushers.close()
    assert idler.seen == pushed, "each once, what was given back twice"
    wait_until(lambda: not store.exists(keys.UNACKED, keys.LEASES), what="nothing is held")
    assert not list(store.scan_iter("ml.*", _type="LIST"))


def test_each_list_wakes_a_worker_of_many_models_and_is_looked_at_alone(
    idler: Idler, redis_url: str, store: redis.Redis
) -> None:
    """Of 64 models: a job costs no look at the lists of the other 63."""
    pushers = Pushers(redis_url)
    pushed = [
        (kind, model, priority)
        for model in MODELS
        for priority in keys.PRIORITIES
        for kind in ("stock" if model < "m3" else "keyed",)
    ]
    before = 0
    for number, (kind, model, priority) in enumerate(pushed):
        if number == 10:
            before = _looks(store)
        pushers.prepare(kind, f"each-{number}-", model, priority)()
        wait_until(lambda seen=number + 1: len(idler.seen) == seen, timeout_s=20, what=f"{kind} {model} {priority}")
    looks = (_looks(store) - before) / (len(pushed) - 10)
    assert looks < 20, "and not at all lists, 768"
    pushers.close()


def _looks(store: redis.Redis) -> int:
    return sum(store.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("llen", "exists"))


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("ml.m.1", "ml.m.1"),
        ("ml", "ml"),
        (keys.TURNS + "ml.m.1", "ml.m.1"),
        (keys.LANE + "ml.m.1:key:a", "ml.m.1"),
        (keys.LANE + "ml.other.1:key", None),
        (keys.REGISTRY, None),
        (keys.PAUSED, None),
        ("", None),
    ],
)
def test_which_list_a_change_is_of(key: str, found: str | None) -> None:
    assert transport._list_of(key, {"ml", "ml.m.1"}) == found
