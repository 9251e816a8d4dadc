"""Outputs become answers, answers become outcomes, one round trip for all that are ready: in the finish thread, or in
its place in the one that ran a lone batch."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import redis

from shared import scripts, tasks
from shared.errors import Fault
from shared.logs import Event, get_logger
from shared.outcomes import encode_outcome
from shared.store import RETRY_S, may_pass
from shared.task import MAX_FAULTS
from shared.types import Outcome, State
from worker.handler import ItemError, with_notes
from worker.holdings import Holdings
from worker.links import Links
from worker.metrics import WorkerMetrics
from worker.outputs import Outputs
from worker.progress import ProgressTeller
from worker.report import Reporter
from worker.spans import end_job, end_with
from worker.stalls import HostCalls, Step
from worker.vital import vital_thread
from worker.work import Item, Unit, Work

logger = get_logger("worker")


@dataclass(slots=True)
class _Batch:
    units: list[Unit]
    outputs: list[Any]
    predict_ms: float
    share: float = 1.0
    at: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _End:
    work: Work
    outcome: Outcome
    since: float = field(default_factory=time.monotonic)
    stored: bool = False  # its output is where it is to be


_News = _Batch | _End | partial[None] | threading.Event | None


class Finisher:
    """`deliver`, `end` and `skip` from any thread."""

    def __init__(
        self,
        client: redis.Redis,
        holdings: Holdings,
        reporter: Reporter,
        metrics: WorkerMetrics,
        progress: ProgressTeller,
        *,
        calls: HostCalls,
        worker: str,
        result_ttl_s: float,
        outputs: Outputs | None,
        on_gone: Callable[[Work], None],
    ) -> None:
        self._client, self._holdings, self._reporter, self._metrics = client, holdings, reporter, metrics
        self._progress, self._calls = progress, calls
        self._worker, self._ttl_ms, self._on_gone = worker, int(result_ttl_s * 1000), on_gone
        self._inbox: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._outputs = outputs
        self._thread = vital_thread("finish", self._loop)
        self._turn = threading.Lock()  # one at a time brings jobs to their end
        self.links: Links | None = None
        """Set before anything comes in; for jobs on which something of Celery's hangs."""

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Write what is in hand and end; False if it took longer than `timeout` seconds."""
        end = time.monotonic() + timeout
        if self._outputs is not None:
            self.flush(timeout)  # what is delivered already may be large
            self._outputs.wait(max(0.0, end - time.monotonic()))
        self._inbox.put(None)
        self._thread.join(max(0.0, end - time.monotonic()))
        return not self._thread.is_alive()

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was delivered before has its outcome in Redis, or for so many seconds."""
        written = threading.Event()
        self._inbox.put(written)
        written.wait(timeout)

    def deliver(
        self, units: list[Unit], outputs: list[Any], predict_ms: float, *, share: float = 1.0, here: bool = False
    ) -> None:
        """A batch has run, on this share of the device. `here`: the calling thread sees to it, if nothing is before
        it and Redis is there, which saves waking another."""
        batch = _Batch(units, outputs, predict_ms, share)
        if here and not any(unit.work.linked for unit in units) and self._turn.acquire(blocking=False):
            try:
                if self._inbox.empty():
                    self._write(self._digest(batch), wait=False)
                    return
            finally:
                self._turn.release()
        self._inbox.put(batch)

    def end(self, work: Work, outcome: Outcome) -> None:
        """A job ends without (more of) the device."""
        self._inbox.put(_End(work, outcome))

    def end_aside(self, work: Work, outcome: Outcome) -> None:
        """Likewise, in the calling thread and past all that is in hand: a handler's `finish` hangs, and whoever called
        it never gives the turn back. Only where the process is about to die, and of an outcome without output."""
        work.ended = True
        self._write([_End(work, outcome)], wait=False)

    def skip(self, work: Work, verdict: scripts.Verdict) -> None:
        """A job that is not ours to run: it had ended, and its outcome stays; or another worker has its message."""
        if verdict.status == "lost":
            end_job(work, "lease_lost")
            self._holdings.release(work.tag)
            self._reporter.forget(work)
        elif verdict.status == "missing":
            # Ours, but without a record: expired, or deleted by hand. Never adopted, never run.
            return self._refuse(work)
        elif work.linked:
            return self._inbox.put(partial(self._skip_ended, work, verdict))
        else:
            return self._skip_ended(work, verdict)
        self._on_gone(work)

    def _skip_ended(self, work: Work, verdict: scripts.Verdict) -> None:
        if work.linked and self.links is not None:
            self.links.again(work)
        end_job(work, verdict.state.value if verdict.state else "ended")
        self._holdings.ack(work.tag)  # whatever becomes of Celery's report
        self._reporter.ended(work, verdict.state, code="ended", message="the job had ended before it ran")
        self._on_gone(work)

    def _refuse(self, work: Work) -> None:
        end_job(work, "refused", failed=True)
        self._holdings.reject(work.tag)
        self._reporter.call(partial(work.request.reject, requeue=False))
        self._on_gone(work)

    def _loop(self) -> None:
        stopping = False
        while not stopping:
            news = [self._inbox.get()]
            while not self._inbox.empty():
                news.append(self._inbox.get())
            stopping = None in news
            with self._turn:
                self._see_to(news)

    def _see_to(self, news: list[_News]) -> None:
        ends: list[_End] = []
        for one in news:
            if isinstance(one, _Batch):
                ends += self._digest(one)
            elif isinstance(one, _End) and (one.stored or not one.work.ended):
                one.work.ended = True
                ends.append(one)
        if ends:
            self._write(ends)
        for one in news:
            if isinstance(one, threading.Event):
                one.set()
            elif isinstance(one, partial):
                one()

    def _digest(self, batch: _Batch) -> list[_End]:
        """The jobs that a batch has brought to their end."""
        works = dict.fromkeys(unit.work for unit in batch.units if not unit.work.ended)
        total = sum(unit.cost for unit in batch.units)
        for unit in batch.units:
            if not _called(unit):
                unit.work.device_ms += batch.predict_ms * batch.share * unit.cost / total
            unit.work.tokens += unit.prepared.tokens
        for work in works:
            if batch.predict_ms > work.predict_ms:
                work.predict_ms, work.batch_size = batch.predict_ms, len(batch.units)
        for unit, output in zip(batch.units, batch.outputs, strict=True):
            if not unit.work.ended:
                _fill(unit, output, self._calls)
        ends = []
        for work in works:
            failed = any(item.fault for item in work.items)
            if work.timeout_s is not None and batch.predict_ms > work.timeout_s * 1000:
                work.ended = True  # the watchdog looks twice a second: what ends between two looks is late all the same
                ends.append(_End(work, timed_out(work.timeout_s), batch.at))
            elif work.open_items == 0 or (failed and not work.partial):
                work.ended = True
                ends.append(_End(work, _outcome(work), batch.at))
            else:
                self._progress.changed(work)
        return ends

    def _write(self, ends: list[_End], *, wait: bool = True) -> None:
        """However long Redis is away, or else the finish thread does."""
        ready = [(end, told) for end in ends if (told := self._told(end)) is not None]
        for end, told in ready:
            if end.work.linked and self.links is not None:
                self._end_linked(self.links, end, told)
        ready = [(end, told) for end, told in ready if not end.work.linked]
        if not ready:
            return None
        ends, all_told = [end for end, _ in ready], [told for _, told in ready]
        while (replies := self._try(all_told)) is None:
            if not wait:
                return self._inbox.put(partial(self._write, ends))
            time.sleep(RETRY_S)  # the leases are renewed meanwhile; finishing again is harmless
        for end, reply in zip(ends, replies, strict=True):
            self._stands(end, reply)
        return None

    def _end_linked(self, links: Links, end: _End, told: scripts.End) -> None:
        def write() -> Any:
            (reply,) = scripts.finish_all(self._client, [told], ttl_ms=self._ttl_ms)
            if isinstance(reply, redis.RedisError) and may_pass(reply):
                raise reply
            return reply

        reply = links.end(end.work, end.outcome, write)
        if not isinstance(reply, Exception):
            self._holdings.ack(end.work.tag)
        self._stands(end, reply)

    def _stands(self, end: _End, reply: Any) -> None:
        """What Redis said of an outcome."""
        work, outcome = end.work, end.outcome
        if isinstance(reply, Exception):  # what waiting does not mend
            logger.error(Event.JOB_FAILED, **work.names, step="finish", error=reply)
            self._refuse(work)
            return
        if reply.first and work.ref.model:  # else a plain message that became no job
            # The state that stands: a job that was canceled while it ran is, whatever came of it.
            self._metrics.of(work.ref).ended(reply.state, outcome.code, time.monotonic() - end.since)
        if outcome.state is State.FAILED:
            told = {"model": str(work.ref)} if work.ref.model else {}
            logger.info(Event.JOB_FAILED, **work.names, **told, code=outcome.code)
        end_with(work, outcome, reply.state)
        self._holdings.release(work.tag)
        self._on_gone(work)
        self._reporter.ended(
            work,
            reply.state,
            code=outcome.code or "",
            message=outcome.message,
            runtime_s=work.predict_ms / 1000,
        )

    def _try(self, ends: list[scripts.End]) -> list[Any] | None:
        """None: Redis is away, or takes no writes."""
        why: object
        try:
            replies = scripts.finish_all(self._client, ends, ttl_ms=self._ttl_ms)
        except redis.RedisError as error:
            why = error
        else:
            why = next((reply for reply in replies if isinstance(reply, redis.RedisError) and may_pass(reply)), None)
            if why is None:
                return replies
        logger.warning(Event.REDIS_LOST, step="finish", jobs=len(ends), error=why)
        return None

    def _told(self, end: _End) -> scripts.End | None:
        """None: its output goes to the payload store first."""
        work, outcome = end.work, end.outcome
        outcome.tokens = work.tokens
        outcome.timing = {
            "prepare_ms": round(work.prepare_ms, 3),
            "predict_ms": round(work.predict_ms, 3) if work.batch_size else None,
            "batch_size": work.batch_size or None,
            "worker": self._worker,
        }
        try:
            meta = encode_outcome(work.job_id, outcome, attempt=work.attempt, started_at=work.started_at)
        except TypeError as error:
            message = f"the handler's output is not JSON data: {error}"
            end.outcome = outcome = Outcome(State.FAILED, code="handler_contract", message=message)
            meta = encode_outcome(work.job_id, outcome, attempt=work.attempt, started_at=work.started_at)
        if (
            self._outputs is not None
            and not end.stored
            and outcome.output is not None
            and self._outputs.too_large(meta)
        ):
            end.stored = True
            self._outputs.store(work, outcome, len(meta), lambda: self._inbox.put(end))
            return None
        return scripts.End(
            work.job_id,
            tag="" if work.linked else work.tag,  # acknowledged when what follows knows (worker/links.py)
            state=outcome.state,
            code=outcome.code or "",
            meta=meta,
            stored=outcome.stored,
            usage=scripts.Usage(len(work.items), work.tokens, int(work.device_ms * 1000)) if work.owner else None,
        )


def _called(unit: Unit) -> bool:
    """Whether somebody else did it, and not the device."""
    return unit.work.model is not None and unit.work.model.concurrency > 0


def _fill(unit: Unit, output: Any, calls: HostCalls) -> None:
    """Put a unit's output in its item; the last one makes the item's answer."""
    work = unit.work
    item = work.items[unit.item]
    if item.fault is not None:
        return
    if isinstance(output, ItemError):
        _fail(work, unit.item, output)
        return
    item.outputs[unit.chunk] = output
    item.begun.pop(unit.chunk, None)
    if unit.prepared.notes:
        item.notes.update(unit.prepared.notes)
    item.missing -= 1
    if item.missing:
        return
    try:
        item.outputs = [_answer(work, item, calls)]
    except ItemError as error:
        _fail(work, unit.item, error)
    except Exception as error:
        told = {**work.names, "model": str(work.ref), "code": "predict_error"}
        logger.error(Event.BATCH_FAILED, **told, step="finish", exc_info=error)
        _fail(work, unit.item, ItemError(f"{type(error).__name__}: {error}", code="predict_error"))
    else:
        work.open_items -= 1


def _answer(work: Work, item: Item, calls: HostCalls) -> Any:
    assert work.model is not None  # noqa: S101  # prepared work has its model
    finish = work.model.handler.finish
    return with_notes(calls.make("finish", work, finish, item.outputs, item.value, work.parameters), item.notes)


def _fail(work: Work, index: int, error: ItemError) -> None:
    assert work.parts is not None  # noqa: S101  # prepared work has its parts
    pointer = error.pointer
    if not pointer.startswith("/parameters/"):
        pointer = work.parts.pointer(index, tuple(pointer.split("/")[1:]))
    work.items[index].fault = Fault(pointer=pointer, code=error.code, message=error.message)
    work.open_items -= 1


def _outcome(work: Work) -> Outcome:
    """All items are done, or one failed and the job with it."""
    assert work.model is not None  # noqa: S101  # prepared work has its model
    assert work.parts is not None  # noqa: S101  # and its parts
    faults = [item.fault for item in work.items if item.fault]
    if faults and not work.partial:
        return failure(faults)
    outputs = [None if item.fault else item.outputs[0] for item in work.items]
    output = tasks.join(work.model.task, work.parts, [_plain(one) for one in outputs])
    if work.returns and isinstance(output, dict):
        output = output.get(work.returns)
    return Outcome(State.SUCCEEDED, output=output, faults=faults[:MAX_FAULTS])


def timed_out(limit_s: float, step: Step = "predict") -> Outcome:
    """A job whose handler took longer over a call than it may."""
    return Outcome(State.FAILED, code="timeout", message=f"{step} took longer than {limit_s:g} s")


def failure(faults: list[Fault]) -> Outcome:
    """A failed job by its items' faults."""
    message = faults[0].message if len(faults) == 1 else f"{len(faults)} items failed; the first: {faults[0].message}"
    return Outcome(State.FAILED, code=faults[0].code, message=message, faults=faults[:MAX_FAULTS])


def _plain(output: Any) -> Any:
    return output.model_dump(exclude_none=True) if hasattr(output, "model_dump") else output
