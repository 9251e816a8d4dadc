"""What a handler's `predict` may give back, wherever it is called from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from worker.handler import Answered, ItemError, TryLater


def wrong_count(outputs: Any, wanted: int) -> str:
    """What is wrong with `outputs` as the list of one output for each of `wanted` inputs; empty if nothing."""
    if isinstance(outputs, Sequence) and not isinstance(outputs, str | bytes) and len(outputs) == wanted:
        return ""
    got = f"{len(outputs)} outputs" if isinstance(outputs, Sequence) else type(outputs).__name__
    return f"predict must return a list with one output for each input: got {got} for {wanted} inputs"


def honest(output: Any) -> Any:
    """An output as it came, or an ItemError: what it says of its cost must be numbers that can be added, and of the
    time to wait, seconds."""
    if isinstance(output, TryLater):
        return _timely(output)
    if not isinstance(output, Answered):
        return output
    told = (output.read, output.written)
    counts = all(isinstance(tokens, int) and tokens >= 0 for tokens in told)
    if counts and isinstance(output.cost, int | float) and 0 <= output.cost < math.inf:
        return output
    return ItemError("Answered: read and written must be counts, cost a number from 0 on", code="handler_contract")


def _timely(later: TryLater) -> TryLater | ItemError:
    after_s = later.after_s
    if after_s is None or (isinstance(after_s, int | float) and 0 <= after_s < math.inf):
        return later.with_traceback(None)
    return ItemError("TryLater: after_s must be seconds from 0 on", code="handler_contract")
