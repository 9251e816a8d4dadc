"""Before a version counts as ready it has run in the real range of batches: the first caller of a shape would pay for
what its device and libraries make then, and a batch that the memory does not hold is found out here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from worker.handler import Handler, Prepared
from worker.predict import is_out_of_memory
from worker.streams import SideBySide

PATIENCE_S = 3.0


def warm_batches(
    handler: Handler[Any, Any], items: Sequence[Any], *, max_size: int, max_cost: int, patience_s: float = PATIENCE_S
) -> int:
    """Run batches of 2, 4, 8 ... of the costliest of `items` (as `handler.io.item`), up to `max_size` and `max_cost`,
    as long as patience lasts. The largest that may be used: `max_size`, or less where the device ran out of memory.
    Raises what `predict` raises."""
    chunk = _costliest(handler, items)
    if chunk is None:
        return max_size
    most = _most(chunk, max_size, max_cost)
    end, fits, size = time.monotonic() + patience_s, 1, 1
    while fits < most and time.monotonic() < end:
        size = min(2 * fits, most)
        try:
            handler.predict([chunk.item] * size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return fits
        fits = size
    return max_size


def warm_streams(
    handler: Handler[Any, Any], items: Sequence[Any], streams: int, *, max_size: int, max_cost: int, beside: SideBySide
) -> int:
    """Run that many of the largest batches at once and one more (of urgent items), after `warm_batches`. How many may
    be: one where the device ran out of memory. Raises what `predict` raises."""
    chunk = _costliest(handler, items)
    if chunk is None or streams == 1:
        return streams
    batch = [chunk.item] * _most(chunk, max_size, max_cost)
    try:
        beside.seconds(streams + 1, lambda: handler.predict(batch))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return 1
    return streams


def _costliest(handler: Handler[Any, Any], items: Sequence[Any]) -> Prepared | None:
    return max(prepared_chunks(handler, items), key=lambda chunk: chunk.cost, default=None)


def _most(chunk: Prepared, max_size: int, max_cost: int) -> int:
    return max(1, min(max_size, max_cost // max(1, chunk.cost)))


def prepared_chunks(handler: Handler[Any, Any], items: Sequence[Any]) -> list[Prepared]:
    """Of all `items` (as `handler.io.item`), with the examples' parameters."""
    parameters = handler.io.parameters.model_validate(handler.example_parameters)
    chunks: list[Prepared] = []
    for item in items:
        prepared = handler.prepare(item, parameters)
        chunks += [prepared] if isinstance(prepared, Prepared) else prepared
    return chunks
