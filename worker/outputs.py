"""Outputs too large for Redis go to the payload store before their outcome is written, in threads of their own: the
finish thread waits for no store.

A store that is away is asked a few times; then the output goes to Redis after all, if it fits there. One that does not
is tried until the store is back: the job stays in hand, its lease renewed, and ends by its deadline at the latest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import redis

from shared import scripts
from shared.errors import PayloadsUnavailable
from shared.logs import Event, get_logger
from shared.outcomes import encode_output
from shared.payload_place import PayloadRef
from shared.payload_store import GRACE_S, JSON_TYPE, Payloads
from shared.scripts_payloads import stash
from shared.types import Outcome
from worker.work import Work

logger = get_logger("worker")

_THREADS = 2
_TRIES, _BETWEEN_S = 4, 1.0
MOST_INLINE = 64_000_000  # what Redis takes where the store takes nothing


class Outputs:
    """`store` from one thread at a time."""

    def __init__(self, payloads: Payloads, client: redis.Redis, inline_bytes: int) -> None:
        self._payloads, self._client, self._inline_bytes = payloads, client, inline_bytes
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="output")
        self._idle = threading.Condition()
        self._under_way = 0
        self._stopping = threading.Event()

    def too_large(self, meta: bytes) -> bool:
        """Whether an encoded outcome does not belong into Redis."""
        return len(meta) > self._inline_bytes

    def store(self, work: Work, outcome: Outcome, size: int, then: Callable[[], None]) -> None:
        """Its output goes to the store, and `outcome` says where; or stays in it. Then `then` is called. `size`: of the
        encoded outcome."""
        with self._idle:
            self._under_way += 1
        self._pool.submit(self._run, work, outcome, size, then)

    def wait(self, timeout: float) -> bool:
        """Until all that was given is done, or for so many seconds; nothing is tried again from now on."""
        self._stopping.set()
        with self._idle:
            return self._idle.wait_for(lambda: not self._under_way, timeout)

    def _run(self, work: Work, outcome: Outcome, size: int, then: Callable[[], None]) -> None:
        try:
            try:
                self._store(work, outcome, size)
            except Exception as error:  # a bug of ours, or of a library: Redis takes it
                logger.error(Event.JOB_FAILED, **work.names, step="output", exc_info=error)
            then()
        finally:
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()

    def _store(self, work: Work, outcome: Outcome, size: int) -> None:
        data, ref = encode_output(outcome), PayloadRef.new(self._payloads.kind)
        tried = 0
        while True:
            try:
                scripts.one(scripts.run(self._client, [stash([ref], GRACE_S)]))
                self._payloads.put(ref, 0, data, JSON_TYPE)
            except (PayloadsUnavailable, redis.RedisError) as error:
                tried += 1
                last = tried >= _TRIES or self._stopping.is_set()
                logger.warning(Event.PAYLOADS_LOST, **work.names, part="output", error=str(error), tried=tried)
                if last and size <= MOST_INLINE:
                    logger.warning(Event.OUTPUT_INLINE, **work.names, bytes=size)
                    return
                time.sleep(_BETWEEN_S * min(tried, 5))
            else:
                outcome.stored, outcome.stored_bytes, outcome.output = str(ref), len(data), None
                return
