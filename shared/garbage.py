"""What a process has made before it serves is no garbage, and is not to be looked through again and again."""

from __future__ import annotations

import gc


def settle_memory(*, young: int | None = None) -> None:
    """Call it once all is loaded: a full collection, which no other thread can run beside, need not look through torch,
    the models or the app any more (https://docs.python.org/3/library/gc.html#gc.freeze). `young`: how many new objects
    are let live before the first look at them (Python's own is 700, a few calls' worth)."""
    gc.collect()
    gc.freeze()
    if young is not None:
        gc.set_threshold(young, *gc.get_threshold()[1:])
