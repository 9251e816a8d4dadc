"""Everything between Celery and the device, wired: the threads of a worker and the path of a job through them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import redis
from celery import Celery
from pydantic import ValidationError

from shared import keys, messages, origin, scripts
from shared.catalog import Ref
from shared.logs import Event, get_logger
from shared.origin import Carried
from shared.payload_place import NAMES, PayloadRef
from shared.payload_store import Payloads
from shared.settings import Settings
from shared.store import connect
from worker.adopter import Adopter
from worker.claims import Claimer
from worker.cpu import CpuShare
from worker.fetcher import Fetcher
from worker.finisher import Finisher, timed_out
from worker.handler import Listener
from worker.holdings import Holdings
from worker.links import Links, is_linked
from worker.metrics import WorkerMetrics
from worker.outputs import Outputs
from worker.pieces import PieceTeller
from worker.preparer import Preparer
from worker.progress import ProgressTeller
from worker.queues import Queues
from worker.registry import RegistryReader
from worker.report import Reporter
from worker.runner import Run, Runner
from worker.runners import Runners
from worker.shelf import Place, Shelf
from worker.spans import begin_job, end_job
from worker.stalls import HostCalls, Stall, Step, is_overdue
from worker.work import Unit, Work

logger = get_logger("worker")

_LIGHT = 16_384  # bytes of a message
_INTAKE_ROOM = 64
_CALL_GRACE_S = 10.0  # so much later than its client a call that takes too long is given up
_CELERYS_OWN = "celery"  # the queue of a stock worker that was told of no other
_LAST_WORDS_S = 3.0  # for what must be said to Celery or Redis at the end, where they may be away
_LAST_OUTCOMES_S = 8.0  # for what is in hand when the process is about to die; less than the watchdog's


class Engine:
    """`accept` in Celery's main thread; `drain` in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        registry: RegistryReader,
        shelf: Shelf,
        client: redis.Redis,
        metrics: WorkerMetrics,
        *,
        payloads: Payloads,
        process: str,
        share: CpuShare,
        want: Callable[[Ref], None],
        on_etag: Callable[[str], None],
    ) -> None:
        self._settings, self._shelf, self._client, self._want = settings, shelf, client, want
        self._payloads, self._registry = payloads, registry
        self._refs = _by_queue(shelf)
        shelf.is_on_device = self._is_on_device
        self._works: dict[str, Work] = {}
        self._works_lock = threading.Lock()
        self.draining = False
        self.holdings = Holdings(process, self._room, starts=self._starts, on_waiting=self._on_waiting, on_etag=on_etag)
        self.queues = Queues(lambda: [*self._refs, *registry.catalog.celery_queues()])
        self.reporter = Reporter(hurry=lambda: self.holdings.wake_on_room)
        self._host_calls = HostCalls()
        self._progress, self._pieces = ProgressTeller(client, process), PieceTeller(client, process)
        self._finisher = Finisher(
            client,
            self.holdings,
            self.reporter,
            metrics,
            self._progress,
            calls=self._host_calls,
            worker=settings.worker_name,
            result_ttl_s=settings.result_ttl_s,
            outputs=Outputs(payloads, client, settings.output_inline_bytes) if payloads.external else None,
            on_gone=self._gone,
        )
        claimer = Claimer(
            client,
            self._finisher,
            self.reporter,
            metrics,
            process=process,
            worker=settings.worker_name,
            max_attempts=settings.max_attempts,
        )
        make_runner = partial(
            Runner,
            claimer,
            self._finisher,
            metrics,
            self._listener,
            worker=settings.worker_name,
            on_paused=self._give_back,
            on_batch=self.let_more_in,
        )
        threads = share.cores + (share.cores > 1)  # one more, for what is urgent
        self._runners = Runners(
            make_runner,
            before=share.apply,
            threads=threads,
            limit=share.now,
            prepare=self._prepare,
        )
        adopter = Adopter(
            client,
            registry,
            settings,
            finisher=self._finisher,
            holdings=self.holdings,
            reporter=self.reporter,
        )
        self._preparer = Preparer(
            client,
            self._runners.put,
            self._finisher,
            metrics,
            calls=self._host_calls,
            threads=settings.prepare_threads,
            fetcher=Fetcher(payloads, client, self._finisher),
            adopt=adopter.adopt,
            before=share.one,
        )

    def takes(self, task: str) -> bool:
        """Whether a backend's Celery task of this name is for a model here."""
        return self._registry.catalog.celery_task(task) is not None

    def route(self, name: str, *_: Any, **__: Any) -> dict[str, str]:
        """Where a task goes that follows a job (a chain's next, a callback) and does not say so itself."""
        found = self._registry.catalog.celery_task(name)
        if found is not None:
            return {"queue": found[1].queue}
        return {"queue": keys.INTAKE if name == messages.TASK else _CELERYS_OWN}

    def attach(self, app: Celery) -> None:
        """The app that consumes, before it does."""
        self._finisher.links = Links(app)

    def start(self) -> None:
        """The threads run; nothing comes in before Celery consumes."""
        self._finisher.start()
        self._progress.start()
        self._pieces.start()
        self._preparer.start()
        self._runners.start()

    def accept(self, request: Any) -> None:
        """A message that Celery has received."""
        if self.draining:
            return  # it is held, and goes back with the rest
        job_id, tag = request.id, request.message.delivery_tag
        carried = Carried.of(request.request_dict)
        if not isinstance(job_id, str) or not job_id:  # Redis has no key for it
            return self._refuse(request, tag)
        if request.request_dict.get("ml") is None:  # its message moves to a queue of ours: no lease of it to lose here
            return self._preparer.submit(_unadopted(job_id, tag, request, carried), adopt=True)
        try:
            envelope = messages.Envelope.of(request.request_dict, request.kwargs)
        except ValidationError:  # says that it is ours, and is not what our API writes
            return self._refuse(request, tag)
        ref = Ref(envelope.arguments.model, envelope.arguments.version)
        priority = keys.nearest_priority(request.message.properties.get("priority"))
        timeout_s, request_id = envelope.ml_timeout_s, carried.request_id
        work = Work(job_id, tag, ref, priority, request, timeout_s=timeout_s, request_id=request_id)
        work.owner, work.weight, work.stored = envelope.ml_owner, envelope.ml_weight, envelope.ml_stored
        work.returns, work.linked = envelope.ml_returns, is_linked(request)
        if not self._knows(work):  # lies where this worker cannot look; for a human, and a retry
            return self._refuse(request, tag)
        work.place = self._shelf.begin(ref)
        if work.place is None:  # unloaded, or gone, since its message was taken
            self._want(ref)
            return self.reporter.call(lambda: request.reject(requeue=True))
        work.model = work.place.model
        work.started = self.holdings.started(tag)
        work.span = begin_job(work, carried.trace)
        with self._works_lock:
            self._works[work.tag] = work
        if not (self._is_light(work, envelope) and self._runners.offer(work)):
            self._preparer.submit(work)

    def _is_light(self, work: Work, envelope: messages.Envelope) -> bool:
        """Whether it is all that is here, and quick to prepare."""
        one = len(self.holdings) == 1 and messages.items_of(work.request.request_dict) == 1
        quick = work.model is not None and work.model.handler.quick and not envelope.ml_payloads
        return one and quick and len(work.request.message.body) < _LIGHT

    def _prepare(self, work: Work) -> None:
        self._preparer.here(work)

    def _knows(self, work: Work) -> bool:
        """Whether its payloads lie in a store of this worker's."""
        try:
            unknown = [ref for ref in map(PayloadRef.parse, work.stored.values()) if not self._payloads.has(ref)]
        except ValueError:
            return False
        if unknown:
            error = f"its input lies in {NAMES[unknown[0].kind]}: ML_PAYLOAD_STORE must be the same everywhere"
            logger.error(Event.PAYLOADS_LOST, **work.names, part="fetch", error=error)
        return not unknown

    def _refuse(self, request: Any, tag: str) -> None:
        names = origin.of_message(request.request_dict, tag).names()
        logger.error(Event.JOB_FAILED, **names, code="message_unreadable")
        self.reporter.call(lambda: request.reject(requeue=False))

    def lost(self, tag: str) -> None:
        """This tag's lease ran out, and its message is another worker's or will be: drop it unless it has started."""
        work = self._works.get(tag)
        if work is None or work.ended:
            return
        logger.warning(Event.LEASE_LOST, **work.names, started=work.claimed)
        if not work.claimed:
            work.ended = True
            end_job(work, "lease_lost")
            self._runners.drop(work)
            self.holdings.release(tag)
            self._gone(work)
            self.reporter.forget(work)

    def _give_back(self, works: list[Work]) -> None:
        """To their lists, the oldest nearest to its turn. A runner's thread."""
        order = {tag: number for number, tag in enumerate(self.holdings.tags())}
        logger.info(Event.JOBS_PAUSED, jobs=len(works), models=sorted({str(work.ref) for work in works}))
        for work in sorted(works, key=lambda work: order.get(work.tag, 0)):
            end_job(work, "paused")
            self._gone(work)
            self.reporter.call(partial(work.request.reject, requeue=True))
            self.reporter.forget(work)

    def _listener(self, units: list[Unit]) -> Listener:
        return Listener(self._progress.listener(units), self._pieces.listener(units))

    @property
    def busy_since(self) -> float | None:
        """Since when (monotonic) a batch is on the device; None: none is."""
        return min((run.begun for run in self._runners.on_device()), default=None)

    @property
    def device_lost(self) -> str:
        """Why the device is gone; empty when all is well."""
        return self._runners.device_lost

    def healthy(self) -> bool:
        """The device works, and no call of a handler is overdue."""
        return not self.device_lost and not self.stalled()

    def state(self) -> str:
        """For the sign of life."""
        return "draining" if self.draining else "ready" if self.healthy() else "stalled"

    def stalled(self) -> Stall | None:
        """A call of a handler that takes longer than its model's timeout, on the device or beside it; None when all is
        well."""
        if self.device_lost:
            return None
        runs = (run for run in self._runners.on_device() if is_overdue(run.units[0].work, run.begun))  # all as patient
        return next((Stall("predict", run.works) for run in runs), None) or self._host_calls.stall()

    def end_overdue(self) -> None:
        """Jobs past a time limit of their own have failed (`timeout`). Their batch goes on, and what comes of it is
        dropped for them. Who asks somebody else and waits too long is given up: that needs no new process."""
        for run in self._runners.on_device():
            self._end_late(run)
        for runner, run in self._runners.calls():
            self._end_late(run)
            if time.monotonic() - run.asked_at > run.works[0].patience_s + _CALL_GRACE_S and runner.abandon(run):
                logger.error(Event.CALL_OVERDUE, model=str(run.works[0].ref), jobs=[work.names for work in run.works])
                for work in run.works:
                    if not work.ended:
                        self._finisher.end(work, timed_out(work.patience_s))

    def _end_late(self, run: Run) -> None:
        for work in run.works:
            if work.timeout_s is not None and not work.ended and time.monotonic() - run.begun > work.timeout_s:
                self._finisher.end(work, timed_out(work.timeout_s))

    def on_device(self) -> list[Work]:
        """The jobs on the device now."""
        return [work for run in self._runners.on_device() for work in run.works]

    def _is_on_device(self, place: Place) -> bool:
        return any(run.units[0].work.place is place for run in self._runners.on_device())

    def settle(self, works: list[Work], *, overdue: Step | None) -> None:
        """This process is about to die, and its sign of life is gone: of `works`, whose call is `overdue`, or which are
        on a lost device. One that is overdue alone has failed (`timeout`); else they go back as crashed, to run alone
        from now on. What else is held goes back as it was."""
        self.holdings.close()
        stuck = [work.tag for work in works]
        for run in self._runners.on_device():
            if not set(works).isdisjoint(run.works):
                run.span.fail("timeout" if overdue else "device_lost")
            run.span.end()
        if overdue and len(works) == 1:
            outcome = timed_out(works[0].patience_s, overdue)
            if overdue != "finish":
                self._finisher.end(works[0], outcome)
            if overdue == "finish" or not self._finisher.stop(_LAST_OUTCOMES_S):  # another's `finish` may hang, too
                self._finisher.end_aside(works[0], outcome)
        elif stuck:
            self._finisher.flush(_LAST_OUTCOMES_S)  # jobs that have finished did not crash
            scripts.run(self._client, [scripts.give_back_crashed(stuck, process=self.holdings.process)])
            for work in works:
                end_job(work, "given_back_crashed")
        rest = [tag for tag in self.holdings.tags() if tag not in stuck]
        if rest:
            scripts.run(self._client, [scripts.give_back(rest, process=self.holdings.process)])
            self._end_spans()

    def drain(self, grace_s: float) -> bool:
        """Take nothing more, finish the batch on the device, give the rest back. False when the grace was too short:
        then the batch in flight goes back too, and will run again elsewhere."""
        logger.info(Event.STOPPING, held=len(self.holdings))
        self.holdings.close()
        deadline = time.monotonic() + grace_s
        self.reporter.passed(min(_LAST_WORDS_S, grace_s / 2))  # what was being drained is held, and goes back too
        self._preparer.stop()
        done = self._runners.stop(max(1.0, deadline - time.monotonic()))
        done = self._finisher.stop(max(1.0, deadline - time.monotonic())) and done
        tags = self.holdings.tags()
        if tags:
            try:
                scripts.run(
                    connect(self._settings, timeout_s=_LAST_WORDS_S),
                    [scripts.give_back(tags, process=self.holdings.process)],
                )
            except redis.RedisError as error:  # their leases run out instead
                logger.warning(Event.REDIS_LOST, step="drain", jobs=len(tags), error=error)
            for tag in tags:
                self.holdings.release(tag)
            self._end_spans()
        logger.info(Event.STOPPED, given_back=len(tags), in_time=done)
        return done

    def _end_spans(self) -> None:
        """Of what goes back as it was."""
        with self._works_lock:
            works = list(self._works.values())
        for work in works:
            end_job(work, "given_back")

    def info(self) -> dict[str, Any]:
        """For `celery inspect stats`."""
        return {
            "models": [str(place.ref) for place in self._shelf.places()],
            "held": len(self.holdings),
            "waiting-units": self._runners.waiting(),
        }

    def _gone(self, work: Work) -> None:
        with self._works_lock:
            known = self._works.pop(work.tag, None)
        work.span.end()
        if known is not None and work.place is not None:
            self._shelf.end(work.place)

    def shelf_changed(self) -> None:
        """A version has come or gone: there may be room for what waits, or another queue. Any thread."""
        self._refs = _by_queue(self._shelf)
        self.holdings.changed = True
        self._runners.tidy()
        self.reporter.call(self.queues.sync)  # wakes Celery's loop, which drains then

    def _on_waiting(self, list_name: str) -> None:
        ref = self._refs.get(keys.queue_of(list_name))
        if ref is not None:
            self._want(ref)

    def let_more_in(self) -> None:
        """A batch begins, or some time has passed: what is held may be long, or take long to be fetched. Any thread."""
        if self.holdings.one_more():
            self.reporter.call(_wake)

    def _room(self, list_name: str) -> int:
        """How many items of one list may be held: two batches of normal jobs, one of the others, so that the next
        batch is ready while one runs and the other replicas still get their share. -1 where its version is not
        loaded, 0 where it is not this worker's any more."""
        queue = keys.queue_of(list_name)
        if keys.is_intake(queue):
            size = _INTAKE_ROOM
        elif (ref := self._refs.get(queue)) is None:
            return 0
        elif (model := self._shelf.ready(ref)) is None:
            return -1
        else:
            size = model.max_size * (model.concurrency or model.streams)
        return 2 * size if list_name == keys.queue_list(queue, keys.NORMAL) else size

    def _starts(self, list_name: str) -> bool:
        """What is prepared in a moment; and not what asks somebody else: that is another start (see claim.lua)."""
        ref = self._refs.get(keys.queue_of(list_name))
        model = self._shelf.ready(ref) if ref is not None else None
        return model is not None and model.handler.quick and not model.concurrency


def _wake() -> None:
    """Celery's loop turns, and drains."""


def _by_queue(shelf: Shelf) -> dict[str, Ref]:
    return {keys.queue_name(place.ref.model, place.ref.version): place.ref for place in shelf.places()}


def _unadopted(job_id: str, tag: str, request: Any, carried: Carried) -> Work:
    linked = is_linked(request)
    return Work(job_id, tag, Ref("", ""), keys.NORMAL, request, request_id=carried.request_id, linked=linked)
