"""A batch's results as JSON lines, in the order of its inputs, a slice at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import orjson

from api.payloads import ApiPayloads
from api.submitter import Command, Submitter
from shared import keys
from shared.errors import StoreUnavailable
from shared.outcomes import readable
from shared.payload_place import PayloadRef
from shared.scripts_batches import BatchSeen, look_at_batch

T = TypeVar("T")

_FEWEST, _MOST = 10, 200  # lines of a slice
_SMALL, _LARGE = 500_000, 4_000_000  # bytes of one, by which the next has more lines, or fewer
_TOGETHER = 20  # lines between which others get their turn
_SOON_S, _LATE_S = 0.1, 1.0  # between two looks for lines that have not ended
_PATIENCE_S = 30.0  # with a Redis that is away

_CUT = {
    "canceled": "the batch was canceled before this line began",
    "deadline_exceeded": "the deadline passed before this line began",
}
_LOST = orjson.dumps({"code": "internal_error", "message": "what became of this line is not in Redis any more"})


@dataclass(frozen=True, slots=True)
class Large:
    """A line whose output lies in the payload store."""

    line: dict[str, Any]
    ref: PayloadRef

    def with_output(self, output: bytes) -> bytes:
        """`output` as JSON."""
        line = self.line | {"output": orjson.Fragment(output)}
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


class Results:
    """Reads the results of one batch. `ended`: whether the process ends, so that nobody should wait for more."""

    def __init__(self, submitter: Submitter, payloads: ApiPayloads, batch_id: str, ended: Callable[[], bool]) -> None:
        self._submitter, self._payloads, self._batch_id, self._ended = submitter, payloads, batch_id, ended

    async def stream(self, start: int, *, follow: bool) -> AsyncIterator[bytes]:
        """Lines from number `start` on, up to the first that has not ended, or, to `follow`, to the end. Raises
        StoreUnavailable."""
        at, count, wait_s = start, _FEWEST, _SOON_S
        while True:
            seen, lines = await self._read(at, count)
            total = int(seen.record.get("total", 0))
            size = 0
            for begin in range(0, len(lines), _TOGETHER):
                async for piece in self._pieces(lines[begin : begin + _TOGETHER]):
                    size += len(piece)
                    yield piece
                await asyncio.sleep(0)
            at += len(lines)
            full = len(lines) == count
            if size > _LARGE:
                count = max(1, count // 4)
            elif full and size < _SMALL:
                count = min(_MOST, count * 2)
            if at >= total or not (full or follow) or self._ended():
                return
            if full:
                continue
            wait_s = _SOON_S if lines else min(_LATE_S, wait_s * 2)
            await asyncio.sleep(wait_s)

    async def _pieces(self, lines: list[bytes | Large]) -> AsyncIterator[bytes]:
        """Those whose output lies in the payload store one by one."""
        small: list[bytes] = []
        for line in lines:
            if isinstance(line, bytes):
                small.append(line)
                continue
            yield b"".join(small)
            small = []
            output = await self._patiently(partial(self._payloads.get, line.ref))
            yield line.with_output(output)
        yield b"".join(small)

    async def _read(self, at: int, count: int) -> tuple[BatchSeen, list[bytes | Large]]:
        return await self._patiently(lambda: self._lines(at, count))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        patience = loop.time() + _PATIENCE_S
        while True:
            with contextlib.suppress(StoreUnavailable):
                return await ask()
            if loop.time() > patience or self._ended():
                raise StoreUnavailable
            await asyncio.sleep(_LATE_S)

    async def _lines(self, at: int, count: int) -> tuple[BatchSeen, list[bytes | Large]]:
        """Of the next `count` lines those before the first that has not ended. The record is read before the outcomes:
        what it says has ended has one."""
        numbers = range(at, at + count)
        seen, refused, metas = await self._submitter.all(
            look_at_batch(self._batch_id),
            Command("HMGET", keys.REFUSED + self._batch_id, *numbers),
            Command("MGET", *(keys.OUTCOME + keys.line_id(self._batch_id, n) for n in numbers)),
        )
        total = int(seen.record.get("total", 0))
        lines: list[bytes | Large] = []
        for number, error, meta in zip(numbers, refused, metas, strict=True):
            line = result(number, error, meta, seen.record) if number < total else None
            if line is None:
                break
            lines.append(line)
        return seen, lines


def result(number: int, refused: bytes | None, meta: bytes | None, record: dict[str, str]) -> bytes | Large | None:
    """One line of the results; None: it has not ended."""
    if refused:
        return _failed(number, "failed", refused)
    if meta:
        return _ended(number, meta)
    code = not_begun(number, record)
    if code:
        return _failed(number, "canceled" if code == "canceled" else "failed", cut_error(code))
    # A canceled batch has `finished_at` only when all its lines have ended.
    if record.get("finished_at"):
        return _failed(number, "failed", _LOST)
    return None


def not_begun(number: int, record: dict[str, str]) -> str | None:
    """Why a line never begins; empty: it will, if nothing comes between; None: it has begun."""
    return record.get("cut", "") if number >= int(record["fed"]) else None


def cut_error(code: str) -> bytes:
    """The error (JSON) of a line that never began."""
    return orjson.dumps({"code": code, "message": _CUT[code]})


@readable()
def _ended(number: int, meta: bytes) -> bytes | Large:
    outcome: dict[str, Any] = orjson.loads(meta)
    ours = outcome.get("ml", {})
    if outcome["status"] == "SUCCESS":
        line = {"index": number, "state": "succeeded", "output": outcome["result"]}
        if ours.get("faults"):
            line["errors"] = ours["faults"]
        if "stored" in ours:
            return Large(line, PayloadRef.parse(ours["stored"]))
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    error = ours.get("error", {"code": "predict_error", "message": "the job failed"})
    state = "canceled" if error["code"] == "canceled" else "failed"
    return orjson.dumps({"index": number, "state": state, "error": error}, option=orjson.OPT_APPEND_NEWLINE)


def _failed(number: int, state: str, error: bytes) -> bytes:
    line = {"index": number, "state": state, "error": orjson.Fragment(error)}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
