"""From waiting units to outputs: take a batch when there is a thread for it, claim its jobs, predict, hand on.

The device has one runner. On a GPU it has one thread; on a CPU it has as many as there are cores to share, so that
versions which gain by it run several batches at a time (streams), each on its part of the cores and with its part of
what is here. A batch that is alone has all of the cores, unless another was here a moment ago: then more is about to
come, and a batch on all of them beside one on a part is slower than two on a part each. What is alone runs in the same
thread each time, the leader's. (OpenMP keeps a team of threads for each thread that ever ran a parallel forward; while
all teams together have more threads than there are cores, none of them spins at its barriers: they sleep there, some
hundred times a forward. https://gcc.gnu.org/onlinedocs/libgomp, GOMP_SPINCOUNT.)
The leader also prepares and finishes what is alone, where that is quick: each thread that is woken on a job's way takes
some 0.2 ms of it.
A version whose `predict` only waits for somebody else (a managed provider) has a runner of its own, with as many
threads as calls may be under way, so that it holds up neither the device nor another provider.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from shared.logs import Event, get_logger
from shared.tracing import NO_SPAN, Span
from worker.batcher import Batcher, is_urgent
from worker.claims import Claimer
from worker.finisher import Finisher
from worker.handler import Answered, DeviceLost, ItemError, Listener, NotYet, TryLater
from worker.metrics import WorkerMetrics
from worker.models import LoadedModel
from worker.predict import predict
from worker.spans import begin_batch
from worker.vital import vital_thread
from worker.work import Unit, Work

logger = get_logger("worker")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0  # before another try, where nobody says when
_MOST_S = 86_400.0
_CROWD_S = 0.1  # after company: for so long a batch leaves room for the next
_LOOK_S = 5.0  # between two looks whether jobs that wait for another try have ended meanwhile


@dataclass(frozen=True, slots=True)
class _Taken:
    """A batch on its way through: how many may be at a time, what it costs, whether all of it is urgent, and whether it
    is one more than may be."""

    at_once: int
    cost: int
    urgent: bool
    extra: bool


@dataclass(slots=True, eq=False)
class Run:
    """A batch under way in `thread`, since `begun` (monotonic); `asked_at`: since when its handler's `predict`, which
    is called more than once where the batch is halved. `share`: the part of the device that it has, from above 0 to 1.
    `abandoned`: nobody waits for what comes of it any more."""

    begun: float
    asked_at: float
    units: list[Unit]
    thread: threading.Thread
    span: Span = NO_SPAN
    share: float = 1.0
    abandoned: bool = False

    @property
    def works(self) -> list[Work]:
        """The jobs that it is of."""
        return list(dict.fromkeys(unit.work for unit in self.units))


class Runner:
    """`put` from any thread; `before` is called in the runner's own, each time before it predicts, with the number of
    parts that the device is cut into, of which this batch has one. `limit`: how many such parts there may be.
    `prepare` is called in the leader's thread with what it was offered, and puts the units of that.
    `on_paused` is told of jobs that have not started and are not to, since their model is paused: they are no longer
    here. `on_batch`: one begins."""

    def __init__(
        self,
        claimer: Claimer,
        finisher: Finisher,
        metrics: WorkerMetrics,
        listener: Callable[[list[Unit]], Listener],
        *,
        worker: str,
        name: str = "device",
        threads: int = 1,
        limit: Callable[[], int] = lambda: 1,
        on_paused: Callable[[list[Work]], None] = lambda _: None,
        on_batch: Callable[[], None] = lambda: None,
        before: Callable[[int], object] = lambda _: None,
        prepare: Callable[[Work], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._claimer, self._finisher, self._metrics, self._listener = claimer, finisher, metrics, listener
        self._worker, self._name = worker, name
        self._on_paused, self._on_batch, self._before, self._clock = on_paused, on_batch, before, clock
        self._limit, self._prepare = limit, prepare
        self._lock = threading.RLock()
        self._lead, self._others = threading.Condition(self._lock), threading.Condition(self._lock)
        self._batcher: Batcher[Unit] = Batcher(clock)
        self._later: list[tuple[float, int, Unit]] = []  # a heap: units and when they are tried again
        self._numbers = itertools.count()
        self._held_until = float("-inf")
        self._refusals = 0  # in a row, of whom is asked
        self._put_off: dict[Unit, None] = {}  # what waits for another try, here or in the batcher
        self._look_at = float("-inf")
        self._stopping = threading.Event()
        self._runs: list[Run] = []
        self._taken: dict[threading.Thread, _Taken] = {}
        self._crowded_at = float("-inf")  # when more than one batch was here, the last time
        self._threads = [vital_thread(name, self._loop) for _ in range(threads)]
        self._leader = self._threads[0]
        self._aside: threading.Thread | None = None  # looks, or prepares
        self._offered: Work | None = None
        self.device_lost = ""
        """Why the device is gone, with the batch still in `runs`; the watchdog ends the process."""

    def start(self) -> None:
        """Once."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Begin no other batch."""
        with self._lock:
            self._stopping.set()
            self._lead.notify_all()
            self._others.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait, after `close`, for the batches under way; False if they took longer than `timeout` seconds."""
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def offer(self, work: Work) -> bool:
        """A job that is not prepared yet: where nothing else is here, the leader does that too, which saves waking
        another thread. False: it is not taken."""
        with self._lock:
            if self._stopping.is_set() or self._offered or self._has_work() or not self._is_leader_free():
                return False
            self._offered = work
            self._lead.notify()
            return True

    def put(self, units: Iterable[Unit]) -> None:
        """They wait for their turn from now on."""
        with self._lock:
            before = len(self._batcher)
            self._batcher.put(units)
            self._wake(len(self._batcher) - before)

    def drop(self, work: Work) -> None:
        """Forget what waits of a job that is no longer ours."""
        with self._lock:
            self._take_out(lambda unit: unit.work is work)
            self._wake(1)  # it may have been what nothing passes over

    def waiting(self) -> int:
        """How many units wait."""
        with self._lock:
            return len(self._batcher) + len(self._later)

    def runs(self) -> list[Run]:
        """What is under way."""
        with self._lock:
            return list(self._runs)

    def abandon(self, run: Run) -> bool:
        """It may take for ever: another thread does what its own would have done next. False: it has ended just now."""
        with self._lock:
            if run not in self._runs:
                return False
            run.abandoned = True
            self._runs.remove(run)
            self._threads.remove(run.thread)  # nobody joins it
            self._taken.pop(run.thread, None)
            if not self._stopping.is_set():
                thread = vital_thread(self._name, self._loop)
                self._threads.append(thread)
                if run.thread is self._leader:
                    self._leader = thread
                thread.start()
            return True

    def _loop(self) -> None:
        while True:
            with self._lock:
                offered, units = self._take_offered(), list[Unit]()
                while not (self._stopping.is_set() or offered or (units := self._next()) or self._is_time_to_look()):
                    self._rest()
                    offered = self._take_offered()
                if self._stopping.is_set():
                    return
                parts = self._enter(units) if units else 1
                alone = _is_alone(units)
                if not units:
                    self._aside = threading.current_thread()
                    if not offered:
                        self._others.notify()  # one who sees to what comes meanwhile
            try:
                if offered:
                    self._prepare(offered)
                elif not units:
                    self._look()
                elif not self._run(units, parts, alone):
                    return
            except DeviceLost as error:
                self.device_lost = str(error)
                return
            with self._lock:
                if len(self._taken) > 1:
                    self._crowded_at = self._clock()
                self._taken.pop(threading.current_thread(), None)
                if self._aside is threading.current_thread():
                    self._aside = None

    def _has_work(self) -> bool:
        return bool(self._taken) or len(self._batcher) > 0

    def _take_offered(self) -> Work | None:
        if threading.current_thread() is not self._leader:
            return None
        offered, self._offered = self._offered, None
        return offered

    def _is_led(self) -> bool:
        """Whether the leader is free, and what comes next is its."""
        return threading.current_thread() is not self._leader and self._is_leader_free()

    def _is_leader_free(self) -> bool:
        return self._leader not in self._taken and self._aside is not self._leader

    def _rest(self) -> None:
        if threading.current_thread() is self._leader:
            self._lead.wait(self._next_in())
        else:
            self._others.wait(None if self._is_led() else self._next_in())

    def _wake(self, units: int) -> None:
        """There is something new: for the leader, who wakes others where it leaves them something. Whose batch ends
        looks itself for what there was no room for."""
        if not self._has_room() or self._aside is threading.current_thread():
            return  # who puts what he has prepared takes it
        if self._is_leader_free():
            self._lead.notify()
        else:
            self._others.notify(min(units, len(self._threads)))

    def _next(self) -> list[Unit]:
        if self._is_led():
            self._lead.notify()
            return []
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            self._batcher.put_back([heapq.heappop(self._later)[2]])
        units = self._take() if self._held_until <= now else []
        for unit in units:
            self._put_off.pop(unit, None)
        return units

    def _take(self) -> list[Unit]:
        taken = self._taken.values()
        return self._batcher.take(
            self._may_run,
            parts=self._parts,
            beside=sum(batch.cost for batch in taken),
            shared=self._shares_cores() and not all(batch.urgent for batch in taken),
        )

    def _may_run(self, head: Unit) -> bool:
        """Whether the batch that begins with it may run beside what does: nothing passes over it."""
        return self._has_stream(head) or (
            self._shares_cores()
            and is_urgent(head)
            and not any(taken.urgent for taken in self._taken.values())
            and self._room(head) > 1
        )

    def _has_stream(self, head: Unit) -> bool:
        return sum(not taken.extra for taken in self._taken.values()) < self._room(head)

    def _room(self, head: Unit) -> int:
        """How many batches there may be with one that begins with it, and one more of urgent units."""
        return min([self._at_once(head), *(taken.at_once for taken in self._taken.values())])

    def _shares_cores(self) -> bool:
        """Calls to somebody else do not."""
        return self._limit() > 1

    def _has_room(self) -> bool:
        head = self._batcher.head()
        return head is None or self._may_run(head)

    def _enter(self, units: list[Unit]) -> int:
        """A batch is on its way; how many parts of the device there are, one of which it has: one where nothing runs
        beside it, nor has a moment ago, nor is about to."""
        now, extra = self._clock(), not self._has_stream(units[0])
        self._taken[threading.current_thread()] = _Taken(
            self._at_once(units[0]), sum(unit.cost for unit in units), all(map(is_urgent, units)), extra
        )
        more = len(self._batcher) > 0 and self._has_room()
        if more or self._later or self._put_off:
            self._others.notify()  # who rests may rest until what has become due only now
        if more or len(self._taken) > 1:
            self._crowded_at = now
        if extra:
            return self._limit()
        return self._room(units[0]) if now - self._crowded_at < _CROWD_S else 1

    def _at_once(self, unit: Unit) -> int:
        """How many batches may be under way when one of its lane is."""
        model = unit.work.model
        assert model is not None  # noqa: S101  # prepared work has its model
        if model.concurrency:
            return model.concurrency
        return 1 if unit.work.alone else min(model.streams, self._limit())

    def _parts(self, head: Unit) -> int:
        """Into how many batches what is here is divided. Calls to somebody else share no cores: they are as large as
        they may be."""
        model = head.work.model
        assert model is not None  # noqa: S101  # prepared work has its model
        return 1 if model.concurrency else self._at_once(head)

    def _is_time_to_look(self) -> bool:
        now = self._clock()
        if not self._put_off or now < self._look_at:
            return False
        self._look_at = now + _LOOK_S
        return True

    def _look(self) -> None:
        """What was canceled, or is past its deadline, need not wait for its turn to end."""
        with self._lock:
            units = list(self._put_off)
        claimed = self._claimer.claim(units, self._stopping.wait)
        with self._lock:
            self._set_aside(claimed.suspects)
            self._take_out(lambda unit: unit.work.ended)

    def _next_in(self) -> float | None:
        now, ready_in = self._clock(), self._batcher.ready_in() if self._has_room() else None
        pauses = [] if ready_in is None else [max(ready_in, self._held_until - now)]
        pauses += [max(0.0, due - now) for due, _, _ in self._later[:1]]
        pauses += [max(0.0, self._look_at - now)] if self._put_off else []
        return min(pauses, default=None)

    def _run(self, units: list[Unit], parts: int, alone: bool) -> bool:
        """False: it took too long, and this thread has a successor."""
        if alone:
            # If this one kills the process, no other job's start may look like a crash: their outcomes stand first.
            self._finisher.flush()
        model = units[0].work.model
        assert model is not None  # noqa: S101  # prepared work has its model
        units = self._claim(units, call=model.concurrency > 0, alone=alone)
        if not units:
            return True
        now, halved = self._clock(), model.halved_batches
        run = Run(now, now, units, threading.current_thread(), share=1 / parts)
        with self._lock:
            self._runs.append(run)
        self._on_batch()
        self._before(parts)
        outputs = self._predict(run, model)
        predict_s = self._clock() - run.begun
        with self._lock:
            if run.abandoned:
                return False
            self._runs.remove(run)
        if all(isinstance(output, ItemError) for output in outputs):
            model.failed_batches += 1
        logger.debug(Event.BATCH_DONE, model=str(model.ref), size=len(units), predict_ms=round(predict_s * 1000, 2))
        self._metrics.of(model.ref).ran(
            units, predict_s, halved=model.halved_batches - halved, share=0.0 if model.concurrency else run.share
        )
        units, outputs = self._settle(units, outputs, model)
        if units:
            here = model.handler.quick and len(units) == 1 and self._nobody_waits()
            self._finisher.deliver(units, outputs, predict_s * 1000, share=run.share, here=here)
        if alone:
            self._finisher.flush()
        return True

    def _nobody_waits(self) -> bool:
        """Neither for this thread, nor for another that the end of its batch would let run."""
        with self._lock:
            return len(self._taken) == 1 and not len(self._batcher)

    def _predict(self, run: Run, model: LoadedModel) -> list[Any]:
        run.span = begin_batch(run.units, self._worker)
        names = [unit.work.names for unit in run.units]

        def listen(start: int, stop: int) -> Listener:
            run.asked_at = self._clock()
            return self._listener(run.units[start:stop])

        try:
            with run.span.active():
                return predict(model, [unit.prepared.item for unit in run.units], names, listen)
        except DeviceLost:
            run.span.fail("device_lost")
            raise
        finally:
            run.span.end()

    def _settle(self, units: list[Unit], outputs: list[Any], model: LoadedModel) -> tuple[list[Unit], list[Any]]:
        """The units that have their output, and these; what is to be tried again waits once more."""
        done: list[tuple[Unit, Any]] = []
        counted = self._metrics.of(model.ref)
        for unit, output in zip(units, outputs, strict=True):
            if isinstance(output, TryLater):
                counted.put_off(output.code)
                if not self._again(unit, output, model):
                    done.append((unit, ItemError(output.message, code=output.code)))
                continue
            self._refusals = 0
            if isinstance(output, Answered):
                unit.prepared.tokens = output.read + output.written
                counted.spent(output)
                done.append((unit, output.output))
            else:
                done.append((unit, output))
        return [unit for unit, _ in done], [output for _, output in done]

    def _again(self, unit: Unit, why: TryLater, model: LoadedModel) -> bool:
        """False: it was tried often enough."""
        told = {**unit.work.names, "model": str(model.ref), "code": why.code, "after_s": why.after_s}
        if isinstance(why, NotYet):
            logger.debug(Event.CALL_PUT_OFF, **told)
        else:
            logger.warning(Event.CALL_PUT_OFF, **told)
        now = self._clock()
        with self._lock:
            if why.after_s is None:
                unit.tries += 1
                if unit.tries > model.retries:
                    return False
            if not self._put_off:
                self._look_at = now + _LOOK_S
            self._put_off[unit] = None
            if why.after_s is not None and model.concurrency:
                self._hold(now, why)
                self._batcher.put_back([unit])
                return True
            pause_s = min(_MOST_S, why.after_s) if why.after_s is not None else _pause_s(unit.tries)
            heapq.heappush(self._later, (now + pause_s, next(self._numbers), unit))
            return True

    def _hold(self, now: float, why: TryLater) -> None:
        """Nothing more is asked until it says; who says `at once` again and again is asked less and less often."""
        after_s = min(_MOST_S, why.after_s or 0.0)
        if not isinstance(why, NotYet):
            if self._held_until <= now:
                self._refusals += 1
            after_s = max(after_s, _pause_s(self._refusals))
        self._held_until = max(self._held_until, now + after_s)

    def _claim(self, units: list[Unit], *, call: bool, alone: bool) -> list[Unit]:
        """The units that may run now. Suspects go back to wait alone."""
        claimed = self._claimer.claim(units, self._stopping.wait, call=call, solo=alone)
        if suspects := claimed.suspects:
            with self._lock:
                self._set_aside(suspects)
            self.put(unit for unit in units if unit.work in suspects)
        if claimed.paused:
            self._leave(claimed.paused)
        return claimed.units

    def _set_aside(self, suspects: set[Work]) -> None:
        """From now on they run alone; what waits of them leaves the lane of the innocent."""
        for work in suspects:
            work.alone = True
        if suspects:
            self._batcher.put(self._batcher.discard(lambda unit: unit.work in suspects))

    def _leave(self, paused: list[Work]) -> None:
        """With them goes all that has not started of their versions: it would be told the same, one batch after the
        other."""
        refs = {work.ref for work in paused}
        with self._lock:
            others = self._take_out(lambda unit: unit.work.ref in refs and not unit.work.claimed)
            told = dict.fromkeys([*paused, *(unit.work for unit in others)])
            works = [work for work in told if not work.ended]  # another thread may have been told of it first
            for work in works:
                work.ended = True  # what of it is still being prepared falls out
        self._on_paused(works)

    def _take_out(self, unwanted: Callable[[Unit], bool]) -> list[Unit]:
        gone = [unit for _, _, unit in self._later if unwanted(unit)]
        self._put_off = {unit: None for unit in self._put_off if not unwanted(unit)}
        if gone:
            self._later = [entry for entry in self._later if not unwanted(entry[2])]
            heapq.heapify(self._later)
        return gone + self._batcher.discard(unwanted)


def _is_alone(units: list[Unit]) -> bool:
    """A suspect's own batch; one that it shares was taken before it was known to be one."""
    return bool(units) and units[0].work.alone and all(unit.work is units[0].work for unit in units)


def _pause_s(tries: int) -> float:
    """0.5, 1, 2 ... 30 s, and up to half of that less: many do not come again at the same moment."""
    return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(tries - 1, 16)) * random.uniform(0.5, 1.0))
