"""Parts of inputs that lie in the payload store come before a job is prepared, in threads of their own: a store that is
slow or away holds up nobody whose input is here.

While it is away a job stays in hand, its lease is renewed, and it is tried again, until it has ended by its deadline or
by a cancel.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import redis

from shared import keys, origin
from shared.errors import PayloadsUnavailable
from shared.logs import Event, get_logger
from shared.payload_place import PayloadRef
from shared.payload_store import PayloadGone, Payloads
from shared.scripts import Verdict
from shared.types import Outcome, State
from worker.finisher import Finisher
from worker.work import Work

logger = get_logger("worker")

_THREADS = 4
_FIRST_S, _LAST_S = 0.5, 8.0  # between two tries


class Fetcher:
    """`fetch` from any thread."""

    def __init__(self, payloads: Payloads, client: redis.Redis, finisher: Finisher) -> None:
        self._payloads, self._client, self._finisher = payloads, client, finisher
        self._stopping = False
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch")
        self._away = False

    def fetch(self, work: Work, then: Callable[[Work], None]) -> None:
        """What `work.stored` names then stands in `work.fetched` (a part that is gone does not), and `then` is
        called."""
        self._later(work, then, 0.0)

    def stop(self) -> None:
        """What has not come is still held, and is given back."""
        self._stopping = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _later(self, work: Work, then: Callable[[Work], None], after_s: float) -> None:
        def begin() -> None:
            with contextlib.suppress(RuntimeError):  # stopped meanwhile
                self._pool.submit(self._try, work, then, after_s)

        if not after_s:
            return begin()
        timer = threading.Timer(after_s, begin)
        timer.daemon = True
        timer.start()

    def _try(self, work: Work, then: Callable[[Work], None], waited_s: float) -> None:
        origin.begin(origin.Origin(work.request_id, work.job_id))
        try:
            if waited_s and (verdict := self._verdict(work)) is not None:
                return self._finisher.skip(work, verdict)
            refs = {number: PayloadRef.parse(text) for number, text in work.stored.items()}
            for number, ref in refs.items():
                if number not in work.fetched:
                    with contextlib.suppress(PayloadGone):  # which `prepare` finds
                        work.fetched[number] = self._payloads.get(ref)
        except ValueError:  # not what our API writes: `prepare` misses it
            pass
        except (PayloadsUnavailable, redis.RedisError) as error:
            return self._put_off(work, then, waited_s, error)
        except Exception as error:
            logger.error(Event.JOB_FAILED, step="fetch", exc_info=error)
            message = f"{type(error).__name__}: {error}"
            return self._finisher.end(work, Outcome(State.FAILED, code="predict_error", message=message))
        if self._away:
            self._away = False
            logger.info(Event.PAYLOADS_BACK)
        then(work)

    def _put_off(self, work: Work, then: Callable[[Work], None], waited_s: float, error: Exception) -> None:
        if not self._away:
            self._away = True
            logger.warning(Event.PAYLOADS_LOST, part="fetch", error=str(error))
        if not (self._stopping or work.ended):
            self._later(work, then, min(_LAST_S, max(_FIRST_S, 2 * waited_s)))

    def _verdict(self, work: Work) -> Verdict | None:
        """Of a job that has ended while its input was waited for; None: it waits still."""
        state = self._client.hget(keys.JOB + work.job_id, "state")
        if state is None:
            return Verdict("missing", 0)
        found = State(state.decode())  # type: ignore[union-attr]  # redis-py's union with its async self
        return Verdict("ended", 0, state=found) if found.terminal else None
