"""Before a batch runs its jobs are claimed: which of them may run now, and what becomes of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import redis

from shared import scripts
from shared.logs import Event, get_logger
from shared.store import RETRY_S
from worker.finisher import Finisher
from worker.metrics import WorkerMetrics
from worker.report import Reporter
from worker.work import Unit, Work

logger = get_logger("worker")

_FRESH_S = 0.05  # so long what started with its take needs no claim: it could hardly be canceled meanwhile


@dataclass(slots=True)
class Claimed:
    """Units that may run now; jobs that are to run alone, and so not now; jobs whose model is paused."""

    units: list[Unit] = field(default_factory=list)
    suspects: set[Work] = field(default_factory=set)
    paused: list[Work] = field(default_factory=list)


class Claimer:
    """From any thread. `process` and `worker` are this worker's id and name."""

    def __init__(
        self,
        client: redis.Redis,
        finisher: Finisher,
        reporter: Reporter,
        metrics: WorkerMetrics,
        *,
        process: str,
        worker: str,
        max_attempts: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._finisher, self._reporter, self._metrics = client, finisher, reporter, metrics
        self._process, self._worker, self._max_attempts, self._clock = process, worker, max_attempts, clock
        self._lock = threading.Lock()  # jobs of many items are claimed by several threads at a time

    def claim(
        self, units: Sequence[Unit], stopped: Callable[[float], bool], *, call: bool = False, solo: bool = False
    ) -> Claimed:
        """Of one lane, or of jobs that run here already; `call`: somebody else is asked; `solo`: they are a suspect's,
        which runs alone. Jobs that have ended meanwhile fall out here. However long Redis is away: `stopped` waits so
        many seconds, and says whether to give up; then nothing may run."""
        claimed = Claimed()
        works = list(dict.fromkeys(unit.work for unit in units if not unit.work.ended))
        started = {work: verdict for work in works if (verdict := self._take_start(work)) is not None}
        asked = [work for work in works if work not in started]
        verdicts = self._verdicts(asked, stopped, call=call, solo=solo) if asked else []
        if verdicts is None:
            return claimed
        with self._lock:
            self._apply([*started.items(), *zip(asked, verdicts, strict=True)], claimed)
        aside = {*claimed.suspects, *claimed.paused}
        claimed.units = [unit for unit in units if not unit.work.ended and unit.work not in aside]
        return claimed

    def _take_start(self, work: Work) -> scripts.Verdict | None:
        """Of a job that started with its take, a moment ago: once, since each batch of it is claimed."""
        started, work.started = work.started, None
        return started.verdict if started and self._clock() - started.at < _FRESH_S else None

    def _apply(self, told: Iterable[tuple[Work, scripts.Verdict]], claimed: Claimed) -> None:
        started = []
        for work, verdict in told:
            if work.ended:
                continue  # another thread was told first
            if verdict.status == "run":
                if not work.claimed:
                    started.append(work)
                self._begin(work, verdict)
            elif verdict.status == "suspect":
                claimed.suspects.add(work)
            elif verdict.status == "paused":
                claimed.paused.append(work)
            else:
                self._skip(work, verdict)
        self._reporter.started(started)

    def _begin(self, work: Work, verdict: scripts.Verdict) -> None:
        if not work.claimed:
            queued_s = (verdict.started_at - verdict.queued_at) / 1000
            self._metrics.of(work.ref).started(attempt=verdict.attempt, queued_s=queued_s)
        work.claimed = True
        work.attempt, work.started_at, work.queued_at = verdict.attempt, verdict.started_at, verdict.queued_at

    def _skip(self, work: Work, verdict: scripts.Verdict) -> None:
        work.ended = True
        logger.info(Event.JOB_SKIPPED, **work.names, verdict=verdict.status, state=verdict.state)
        if verdict.code:
            logger.error(Event.JOB_FAILED, **work.names, model=str(work.ref), code=verdict.code)
        self._finisher.skip(work, verdict)

    def _verdicts(
        self, works: list[Work], stopped: Callable[[float], bool], *, call: bool, solo: bool
    ) -> list[scripts.Verdict] | None:
        """None: given up. Claiming again is harmless."""
        asked = scripts.claim(
            [work.job_id for work in works],
            process=self._process,
            worker=self._worker,
            max_attempts=self._max_attempts,
            solo=solo,
            call=call,
        )
        while True:
            try:
                verdicts: list[scripts.Verdict] = scripts.one(scripts.run(self._client, [asked]))
                return verdicts
            except redis.RedisError as error:
                logger.warning(Event.REDIS_LOST, step="claim", error=error)
                if stopped(RETRY_S):
                    return None
