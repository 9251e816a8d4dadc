"""The worker's life: device, models, engine, Celery, drain."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any

from celery import signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.worker import state as celery_state

from shared import health, keys, tracing
from shared.catalog import load_catalog
from shared.garbage import settle_memory
from shared.logs import Event, flush_logs, get_logger
from shared.messages import TASK
from shared.payload_store import open_payloads
from shared.queue import make_celery, queue
from shared.registry_store import RegistryStore
from shared.settings import Settings
from shared.store import TIMEOUT_S, check_server, connect
from worker import transport
from worker.backend import outcome_backend
from worker.consumer import install_controls
from worker.cpu import CpuShare, spin_briefly
from worker.device import Device, claim_device
from worker.engine import Engine
from worker.exposition import serve_metrics
from worker.loader import Loader
from worker.metrics import WorkerMetrics
from worker.models import LoadedModel
from worker.pool import BatchPool
from worker.preload import first_to_load, follow_registry, let_others, load_place, make_shelf, preload
from worker.presence import Presence, interval_s, tell_failed
from worker.pulse import Pulse
from worker.registry import RegistryReader
from worker.shelf import Place, Shelf
from worker.vital import end_process
from worker.watchdog import start_watchdog

logger = get_logger("worker")

_LAST_WORDS_S = 2.0


def run(settings: Settings) -> int:
    """Until SIGTERM; the exit code. Raises ConfigError when it must not start."""
    # Before Celery's handlers are in place; as process 1 of a container the default would ignore the signal.
    signal.signal(signal.SIGTERM, _end_at_once)
    signal.signal(signal.SIGINT, _end_at_once)  # else Python waits for the thread that loads
    file = load_catalog(settings.models_file)
    tracing.configure("ml-service-worker", settings.worker_name)
    spin_briefly(os.environ)
    device = claim_device(settings)
    client = connect(settings)
    check_server(client)
    payloads = open_payloads(settings, connect(settings))
    process = f"{settings.worker_name}-{uuid.uuid4().hex[:12]}"
    told = partial(tell_failed, client, settings, process=process, device=device)
    reader = RegistryReader(RegistryStore(client, file))
    registry = reader.registry
    shelf = make_shelf(registry, settings, device.name, tell_failed=told)
    metrics = WorkerMetrics(settings.worker_name, device)
    metrics_at = serve_metrics(metrics.registry, settings)

    share = CpuShare(settings.torch_threads, settings.lock_dir, counts=device.name == "cpu")

    load = partial(_load, settings=settings, device=device, share=share, metrics=metrics)

    def changed() -> None:
        engine.shelf_changed()
        presence.nudge()

    def saw(etag: str) -> None:
        if reader.saw(etag):
            loader.wake()

    preload(shelf, load, registry, tell_failed=told)
    loader = Loader(
        shelf,
        follow=follow_registry(reader, settings),
        load=load,
        first=partial(first_to_load, client, process),
        done=partial(let_others, client),
        on_change=changed,
        evicted=lambda ref: metrics.of(ref).evicted(),
    )
    engine = Engine(
        settings,
        reader,
        shelf,
        client,
        metrics,
        payloads=payloads,
        process=process,
        share=share,
        want=loader.want,
        on_etag=saw,
    )
    pulse = Pulse(settings.health_path(), health.limit_s(interval_s(settings)), engine.healthy)
    presence = Presence(
        connect(settings, timeout_s=min(TIMEOUT_S, interval_s(settings))),
        settings,
        engine.holdings,
        process=process,
        device=device,
        shelf=shelf,
        metrics_at=metrics_at,
        on_lost=engine.lost,
        on_etag=saw,
        state=engine.state,
        activity=lambda: metrics.activity.told(engine.busy_since),
        on_drain=partial(os.kill, os.getpid(), signal.SIGTERM),  # as whoever runs this process ends it
        mark=partial(pulse.mark, "presence"),
    )
    engine.start()
    loader.start()
    start_watchdog(engine, pulse, leave=presence.stop, interval_s=0.5, exit_process=end_process)

    def ready() -> None:
        if not presence.started:
            settle_memory()
            presence.start()
            pulse.start()
            logger.info(Event.WORKER_READY, worker=settings.worker_name, models=[str(p.ref) for p in shelf.places()])

    try:
        return consume(settings, device.node(settings.worker_name), shelf, engine, ready=ready, nudge=presence.nudge)
    finally:
        pulse.stop()
        presence.stop()
        tracing.flush()


def _load(place: Place, *, settings: Settings, device: Device, share: CpuShare, metrics: WorkerMetrics) -> LoadedModel:
    """In a thread of its own, which takes OpenMP's team for its forwards with it when it ends (worker/runner.py)."""
    counted = metrics.of(place.ref)
    try:
        with ThreadPoolExecutor(1, "load") as thread:
            model = thread.submit(load_place, place, settings, device.name, share).result()
    except Exception:
        counted.loaded(well=False)
        raise
    counted.loaded(well=True)
    return model


def _end_at_once(number: int, frame: FrameType | None) -> None:
    flush_logs()
    os._exit(0)


def consume(
    settings: Settings,
    node: str,
    shelf: Shelf,
    engine: Engine,
    *,
    ready: Callable[[], None],
    nudge: Callable[[], None],
) -> int:
    """Celery's worker, with our pool, transport and backend, in this thread until it was told to stop. `ready` is
    called when it consumes, also after each reconnect; `nudge` when it begins to drain."""
    # Celery warns root off because of pickle; only JSON is accepted here.
    warnings.simplefilter("ignore", SecurityWarning)

    def tick() -> None:
        engine.reporter.run()
        engine.queues.sync()

    transport.install(engine.holdings, worker=settings.worker_name, on_tick=tick, address=settings.redis_address())
    install_controls()
    app = make_celery(settings, backend=outcome_backend(connect(settings)))
    app.conf.task_routes = (engine.route,)
    app.tasks[TASK].Strategy = "worker.strategy:batching"
    engine.attach(app)
    app.conf.broker_url = app.conf.broker_url.partition(";")[0]  # our transport asks all sentinels at each try itself
    refs = [place.ref for place in shelf.places()]
    queues = [queue(keys.queue_name(ref.model, ref.version)) for ref in refs]
    app.conf.task_queues = [*app.conf.task_queues, *queues]
    app.conf.worker_consumer = "worker.consumer:DeadLetteringConsumer"
    app.events.dispatcher_cls = "worker.events:DatedDispatcher"
    pool = type("BatchPool", (BatchPool,), {"engine": engine, "__module__": BatchPool.__module__})

    def on_ready(sender: Any, **_: Any) -> None:
        # Celery warns at each lost connection of what its next version will do with the work in hand: we have decided.
        warnings.simplefilter("ignore", CPendingDeprecationWarning)  # here: it shows them all from its start on
        ready()
        engine.queues.consumer = sender
        install_signals(settings, engine, nudge)

    signals.worker_ready.connect(on_ready, weak=False)
    worker = app.Worker(
        hostname=node,
        pool=pool,
        concurrency=1,
        loglevel="WARNING",
        task_events=settings.task_events,
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def install_signals(settings: Settings, engine: Engine, nudge: Callable[[], None]) -> None:
    """SIGTERM and SIGINT: drain first, with Celery's loop still running (events, inspect, heartbeats), then stop
    Celery. A second signal is not needed: the grace is bounded. `nudge` tells others that it drains."""

    def drain() -> None:
        nudge()
        engine.drain(settings.grace_s)
        engine.reporter.call(engine.queues.consumer.flush_events)
        engine.reporter.passed(_LAST_WORDS_S)  # what Celery is still to be told
        celery_state.should_stop = 0
        time.sleep(_LAST_WORDS_S)
        end_process(0)  # Redis is away, and Celery or a thread waits for it: what we hold is given back or expires

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not engine.draining:
            engine.draining = True
            threading.Thread(target=drain, name="drain", daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
