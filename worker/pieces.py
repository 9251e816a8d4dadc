"""The answer of a job while it is written: the pieces that its handler says, on their way to who reads along.

Who says only leaves the text in memory; a thread of its own sends what has gathered, all jobs in one round trip, and
then not for `EVERY_S`. Nothing hangs on it, for the whole answer comes with the job's end: while Redis is away a job's
pieces are kept up to `MOST_BYTES`, and what is too much ends them. A piece goes with its place, so that one of which it
is not known whether it has come can be sent again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import redis

from shared import scripts
from shared.logs import Event, get_logger
from shared.scripts_jobs import say
from worker.handler import OnPiece
from worker.work import Unit, Work

logger = get_logger("worker")

EVERY_S = 0.02
MOST_BYTES = 1_000_000  # of one job: of its whole answer in Redis, and of what waits for Redis here
_RETRY_S = 0.5


@dataclass(slots=True, eq=False)
class _Speech:
    """What one run of a job has said: `sent` bytes are in Redis, `waiting` go next."""

    work: Work
    sent: int = 0
    waiting: bytearray = field(default_factory=bytearray)
    over: bool = False  # nobody wants more of it

    def stop(self) -> None:
        self.over = True
        self.waiting.clear()


class PieceTeller:
    """What `listener` makes from any thread."""

    def __init__(self, client: redis.Redis, process: str) -> None:
        self._client, self._process = client, process
        self._changed: dict[_Speech, None] = {}
        self._lock = threading.Lock()  # of `_changed` and of all speeches
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="pieces", daemon=True)

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def listener(self, units: list[Unit]) -> OnPiece:
        """For one run of a handler that has `units` as its batch; for a batch that is run again, in halves or whole,
        another one: it says its answers again from their beginning. A position that is none is not heard, nor one of a
        job with several items or chunks, whose answers would be mixed, nor what is no text."""
        speeches = [_Speech(unit.work) if _is_all_of_its_job(unit) else None for unit in units]

        def hear(position: int, text: str) -> None:
            speech = speeches[position] if 0 <= position < len(speeches) else None
            if speech is None or not isinstance(text, str) or not text:
                return
            piece = text.encode(errors="replace")
            with self._lock:
                if speech.over:
                    return
                if len(speech.waiting) + len(piece) > MOST_BYTES:
                    speech.stop()
                    return
                speech.waiting += piece
                self._changed[speech] = None
            self._wake.set()

        return hear

    def _loop(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            try:
                all_sent = self._send()
            except Exception as error:
                logger.error(Event.TASK_FAILED, exc_info=error, task="pieces")
                all_sent = True
            if not all_sent:
                self._wake.set()
            time.sleep(EVERY_S if all_sent else _RETRY_S)

    def _send(self) -> bool:
        """Whether nothing is left to be sent again."""
        with self._lock:
            speeches = [speech for speech in self._changed if not (speech.over or speech.work.ended)]
            self._changed.clear()
            pieces = [bytes(speech.waiting) for speech in speeches]
        if not speeches:
            return True
        calls = [self._call(speech, piece) for speech, piece in zip(speeches, pieces, strict=True)]
        try:
            replies = scripts.run(self._client, calls)
        except redis.RedisError as error:
            replies = [error] * len(calls)
        with self._lock:
            kept = [self._note(*told) for told in zip(speeches, pieces, replies, strict=True)]
        return all(kept)

    def _call(self, speech: _Speech, piece: bytes) -> scripts.Call[bool]:
        job_id, attempt = speech.work.job_id, speech.work.attempt
        return say(job_id, piece, process=self._process, attempt=attempt, at=speech.sent, most_bytes=MOST_BYTES)

    def _note(self, speech: _Speech, piece: bytes, reply: bool | Exception) -> bool:
        """Whether this piece is done with. Under the lock."""
        if isinstance(reply, Exception):
            logger.debug(Event.REDIS_LOST, step="pieces", error=reply)
            self._changed[speech] = None
            return False
        if reply:
            del speech.waiting[: len(piece)]
            speech.sent += len(piece)
        else:
            speech.stop()
        return True


def _is_all_of_its_job(unit: Unit) -> bool:
    items = unit.work.items
    return len(items) == 1 and len(items[0].outputs) == 1
