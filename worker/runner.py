"""The device thread: take a batch when the device is free, claim its jobs, predict, hand the outputs on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import redis

from shared import scripts
from shared.logs import Event, get_logger
from shared.tracing import NO_SPAN
from worker.batcher import Batcher
from worker.finisher import Finisher
from worker.handler import DeviceLost, ItemError
from worker.metrics import WorkerMetrics
from worker.predict import predict
from worker.progress import ProgressTeller
from worker.report import Reporter
from worker.spans import begin_batch
from worker.vital import vital_thread
from worker.work import Unit, Work

logger = get_logger("worker")

RETRY_S = 0.5  # between tries to reach Redis; what is in hand is kept


class Runner:
    """Only its thread runs a model in service, and calls `before` each time. `put` from any thread. `on_paused` is told
    of jobs that have not started and are not to, since their model is paused: they are no longer here."""

    def __init__(
        self,
        client: redis.Redis,
        finisher: Finisher,
        reporter: Reporter,
        metrics: WorkerMetrics,
        progress: ProgressTeller,
        *,
        process: str,
        worker: str,
        max_attempts: int,
        on_paused: Callable[[list[Work]], None] = lambda _: None,
        before: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._finisher, self._reporter, self._metrics = client, finisher, reporter, metrics
        self._progress = progress
        self._process, self._worker, self._max_attempts = process, worker, max_attempts
        self._on_paused, self._before, self._clock = on_paused, before, clock
        self._condition = threading.Condition()
        self._batcher: Batcher[Unit] = Batcher(clock)
        self._stopping = False
        self._thread = vital_thread("device", self._loop)
        self.current: tuple[float, list[Unit]] | None = None
        """Since when which batch is on the device; read by the watchdog."""
        self.device_lost = ""
        """Why the device is gone, with the batch still in `current`; the watchdog ends the process."""
        self.span = NO_SPAN
        """Of the batch that is on the device, or was last."""

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Finish the batch in flight and end; False if it took longer than `timeout` seconds."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def put(self, units: Iterable[Unit]) -> None:
        """They wait for the device from now on."""
        with self._condition:
            self._batcher.put(units)
            self._condition.notify_all()

    def drop(self, work: Work) -> None:
        """Forget what waits of a job that is no longer ours."""
        with self._condition:
            self._batcher.discard(lambda unit: unit.work is work)

    def waiting(self) -> int:
        """How many units wait."""
        with self._condition:
            return len(self._batcher)

    def _loop(self) -> None:
        while True:
            with self._condition:
                while not self._stopping and not (units := self._batcher.take()):
                    self._condition.wait(self._batcher.ready_in())
                if self._stopping:
                    return
            try:
                self._run(units)
            except DeviceLost as error:
                self.device_lost = str(error)
                return

    def _run(self, units: list[Unit]) -> None:
        alone = units[0].work.alone
        if alone:
            # If this one kills the process, no other job's start may look like a crash: their outcomes stand first.
            self._finisher.flush()
        units = self._claim([unit for unit in units if not unit.work.ended])
        if not units:
            return
        model = units[0].work.model
        assert model is not None  # noqa: S101  # prepared work has its model
        begun, halved = self._clock(), model.halved_batches
        self.current = (begun, units)
        self._before()
        self.span = begin_batch(units, self._worker)
        names, hear = [unit.work.names for unit in units], self._progress.listener(units)
        try:
            with self.span.active():
                outputs = predict(model, [unit.prepared.item for unit in units], names, hear)
        except DeviceLost:
            self.span.fail("device_lost")
            raise
        finally:
            self.span.end()
        predict_s = self._clock() - begun
        predict_ms = predict_s * 1000
        self.current = None
        if all(isinstance(output, ItemError) for output in outputs):
            model.failed_batches += 1
        logger.debug(Event.BATCH_DONE, model=str(model.ref), size=len(units), predict_ms=round(predict_ms, 2))
        self._finisher.deliver(units, outputs, predict_ms)
        self._metrics.of(model.ref).ran(units, predict_s, halved=model.halved_batches - halved)
        if alone:
            self._finisher.flush()

    def _claim(self, units: list[Unit]) -> list[Unit]:
        """The units that may run now. Jobs that have ended meanwhile fall out here, suspects go back to wait alone."""
        works = list(dict.fromkeys(unit.work for unit in units))
        if not works:
            return []
        verdicts = self._verdicts(works)
        if verdicts is None:
            return []
        suspects, started, paused = set(), [], []
        for work, verdict in zip(works, verdicts, strict=True):
            if verdict.status == "run":
                if not work.claimed:
                    started.append(work)
                    queued_s = (verdict.started_at - verdict.queued_at) / 1000
                    self._metrics.of(work.ref).started(attempt=verdict.attempt, queued_s=queued_s)
                work.claimed = True
                work.attempt, work.started_at = verdict.attempt, verdict.started_at
                work.queued_at = verdict.queued_at
            elif verdict.status == "suspect":
                work.alone = True
                suspects.add(work)
            elif verdict.status == "paused":
                paused.append(work)
            else:
                work.ended = True
                logger.info(Event.JOB_SKIPPED, **work.names, verdict=verdict.status, state=verdict.state)
                if verdict.code:
                    logger.error(Event.JOB_FAILED, **work.names, model=str(work.ref), code=verdict.code)
                self._finisher.skip(work, verdict)
        if suspects:
            self.put(unit for unit in units if unit.work in suspects)
            with self._condition:  # what else of theirs waits, in the lane of the innocent
                others = self._batcher.discard(lambda unit: unit.work in suspects)
                self._batcher.put(others)
        if paused:
            self._leave(paused)
        self._reporter.started(started)
        return [unit for unit in units if unit.work.claimed and not unit.work.ended and unit.work not in suspects]

    def _leave(self, paused: list[Work]) -> None:
        """With them goes all that has not started of their versions: it would be told the same, one batch after the
        other."""
        refs = {work.ref for work in paused}
        with self._condition:
            others = self._batcher.discard(lambda unit: unit.work.ref in refs and not unit.work.claimed)
        works = list(dict.fromkeys([*paused, *(unit.work for unit in others if not unit.work.ended)]))
        for work in works:
            work.ended = True  # what of it is still being prepared falls out
        self._on_paused(works)

    def _verdicts(self, works: list[Work]) -> list[scripts.Verdict] | None:
        """However long Redis is away; None when the worker stops before. Claiming again is harmless."""
        call = scripts.claim(
            [work.job_id for work in works],
            process=self._process,
            worker=self._worker,
            max_attempts=self._max_attempts,
            solo=works[0].alone,
        )
        while True:
            try:
                verdicts: list[scripts.Verdict] = scripts.one(scripts.run(self._client, [call]))
                return verdicts
            except redis.RedisError as error:
                logger.warning(Event.REDIS_LOST, step="claim", error=error)
                with self._condition:
                    if self._condition.wait_for(lambda: self._stopping, RETRY_S):
                        return None
