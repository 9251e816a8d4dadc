"""From a message to units for the batcher: fetch payloads, validate, split, tokenise. A small thread pool."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from shared import keys, origin, tasks
from shared.errors import Fault, InvalidInput
from shared.logs import Event, get_logger
from shared.payloads import attach
from shared.store import RETRY_S
from shared.types import Outcome, State
from worker.batcher import Budget
from worker.fetcher import Fetcher
from worker.finisher import Finisher, failure
from worker.handler import Handler, ItemError, Prepared
from worker.metrics import WorkerMetrics
from worker.models import LoadedModel
from worker.stalls import HostCalls
from worker.vital import vital_thread
from worker.work import Item, Unit, Work

logger = get_logger("worker")


class Preparer:
    """`submit` from any thread; `put` gets the units of one job. `before` is called in the thread of the
    pool that prepares one."""

    def __init__(
        self,
        client: redis.Redis,
        put: Callable[[list[Unit]], None],
        finisher: Finisher,
        metrics: WorkerMetrics,
        *,
        calls: HostCalls,
        threads: int,
        fetcher: Fetcher,
        adopt: Callable[[Work], None],
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self._client, self._put, self._finisher, self._metrics = client, put, finisher, metrics
        self._adopt, self._fetcher, self._before, self._calls = adopt, fetcher, before, calls
        self._stopping = threading.Event()
        # No executor: what it makes for each task takes longer than to prepare a short text.
        self._inbox: queue.SimpleQueue[tuple[Callable[[Work], None], Work] | None] = queue.SimpleQueue()
        self._threads = [vital_thread(f"prepare_{number}", self._loop) for number in range(threads)]

    def start(self) -> None:
        """Once."""
        for thread in self._threads:
            thread.start()

    def here(self, work: Work) -> None:
        """Prepare a job of a quick handler in the calling thread, which keeps its torch threads."""
        try:
            self._guard(self._make_ready, work)
        finally:
            origin.begin(origin.Origin())  # what this thread logs next is of other jobs

    def submit(self, work: Work, *, adopt: bool = False) -> None:
        """Prepare a job, or adopt a plain Celery producer's."""
        if work.stored and not adopt:
            self._fetcher.fetch(work, self._submit)
        else:
            self._submit(work, adopt=adopt)

    def _submit(self, work: Work, *, adopt: bool = False) -> None:
        self._inbox.put((self._adopt if adopt else self._prepare, work))

    def stop(self) -> None:
        """What has not begun never will; it is still held and is given back. What has begun is not waited for: nobody
        takes its units any more."""
        self._stopping.set()
        self._fetcher.stop()
        for _ in self._threads:
            self._inbox.put(None)

    def _loop(self) -> None:
        while (asked := self._inbox.get()) is not None:
            if not self._stopping.is_set():
                self._guard(*asked)

    def _guard(self, action: Callable[[Work], None], work: Work) -> None:
        origin.begin(origin.Origin(work.request_id, work.job_id))
        while True:
            try:
                return action(work)
            except redis.RedisError as error:
                logger.warning(Event.REDIS_LOST, step="prepare", error=error)
                if self._stopping.wait(RETRY_S):
                    return None
            except InvalidInput as error:
                return self._finisher.end(work, failure(error.faults or [Fault(message=error.message)]))
            except Exception as error:
                logger.error(Event.JOB_FAILED, step="prepare", exc_info=error)
                message = f"{type(error).__name__}: {error}"
                return self._finisher.end(work, Outcome(State.FAILED, code="predict_error", message=message))

    def _prepare(self, work: Work) -> None:
        self._before()
        self._make_ready(work)

    def _make_ready(self, work: Work) -> None:
        begun = time.monotonic()
        model = work.model
        assert model is not None  # noqa: S101  # accepted work has its model
        kwargs = work.request.kwargs
        value = self._input(work, kwargs["input"])
        work.parameters, work.partial = tasks.parse_parameters(model.task, kwargs.get("parameters"))
        work.parts = tasks.split(model.task, value)
        work.items = [Item() for _ in work.parts.items]
        units: list[Unit] = []
        budget = Budget(model.max_size, model.max_cost, model.max_wait_s, model.padded)
        for index in range(len(work.items)):
            units += self._units(work, model, index, budget)
        prepare_s = time.monotonic() - begun
        work.prepare_ms = prepare_s * 1000
        self._metrics.of(work.ref).prepared(prepare_s)
        faults = [item.fault for item in work.items if item.fault]
        if faults and (not work.partial or not units):
            return self._finisher.end(work, failure(faults))
        work.open_items = sum(item.fault is None for item in work.items)
        self._put(units)

    def _input(self, work: Work, value: Any) -> Any:
        pointers = work.request.request_dict.get("ml_payloads") or []
        if not pointers:
            return value
        count = len(pointers) - len(work.stored)
        found = self._client.mget([keys.payload_key(work.job_id, number) for number in range(count)]) if count else []
        rest = iter(found)
        parts = [
            work.fetched.get(number) if number in work.stored else next(rest, None) for number in range(len(pointers))
        ]
        work.fetched = {}
        present = [part for part in parts if isinstance(part, bytes)]
        if len(present) < len(pointers):
            raise InvalidInput("the job's input is gone from the payload store")
        return attach(value, pointers, present)

    def _units(self, work: Work, model: LoadedModel, index: int, budget: Budget) -> list[Unit]:
        """The units of one item; none, and the item's fault, when it cannot be prepared."""
        item, parts = work.items[index], work.parts
        assert parts is not None  # noqa: S101  # split just before
        try:
            item.value = tasks.parse_item(model.task, parts, index)
            chunks = self._calls.make("prepare", work, _chunks, model.handler, item.value, work.parameters)
            if not chunks:
                raise ItemError("prepare returned no chunks", code="handler_contract")
        except InvalidInput as error:
            item.fault = error.faults[0]
        except ItemError as error:
            path = tuple(error.pointer.split("/")[1:])
            item.fault = Fault(pointer=parts.pointer(index, path), code=error.code, message=error.message)
        except redis.RedisError:
            raise
        except Exception as error:
            logger.error(Event.JOB_FAILED, step="prepare", exc_info=error)
            message = f"{type(error).__name__}: {error}"
            item.fault = Fault(pointer=parts.pointer(index), code="predict_error", message=message)
        if item.fault:
            return []
        item.outputs, item.missing = [None] * len(chunks), len(chunks)
        return [Unit(work, index, number, chunk, budget) for number, chunk in enumerate(chunks)]


def _chunks(handler: Handler[Any, Any], value: Any, parameters: Any) -> Sequence[Prepared]:
    prepared = handler.prepare(value, parameters)
    return [prepared] if isinstance(prepared, Prepared) else list(prepared)  # which may be a generator's work
