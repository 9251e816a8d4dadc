"""What a process has made before it serves is no garbage, and is not to be looked through again and again."""

from __future__ import annotations

import gc


def settle_memory() -> None:
    """Call it once all is loaded: a full collection, which no other thread can run beside, need not look through torch,
    the models or the app any more (https://docs.python.org/3/library/gc.html#gc.freeze)."""
    gc.collect()
    gc.freeze()
