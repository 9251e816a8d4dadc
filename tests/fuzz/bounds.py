"""How much a fuzz test does: a bounded part in the everyday suite, more where `make fuzz` asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))  # set by `python -m tests.fuzz`
_LONGEST = timedelta(seconds=30)  # of one example; a decoder that takes it hangs, on any machine


def fuzzed(*strategies: SearchStrategy[Any], examples: int = 40, **named: SearchStrategy[Any]) -> Callable[[Any], Any]:
    """As Hypothesis's `given`, with so many examples in the everyday suite."""
    bounded = settings(
        max_examples=examples * TIMES,
        deadline=_LONGEST,
        # Slow, large and often refused is what hostile inputs are; what fixtures hold is not changed by an example.
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: bounded(given(*strategies, **named)(test))
