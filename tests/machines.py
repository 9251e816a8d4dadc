"""Hypothesis state machines that drive a real server: a few runs every day, many in `make test-long`."""

from __future__ import annotations

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from local.embedded import EmbeddedServer

short_and_long = pytest.mark.parametrize(
    "times", [1, pytest.param(4, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
"""For a test that takes `times`, and hands it to `run_machine`."""


def run_machine(
    kind: type[RuleBasedStateMachine], server: EmbeddedServer, *, examples: int, times: int, steps: int = 60
) -> None:
    """So many examples `times` over, on an empty database, which is left empty."""
    with redis.Redis.from_url(server.url) as client:
        kind.client = client  # type: ignore[attr-defined]  # each of ours has one
        try:
            run_state_machine_as_test(
                kind,
                settings=settings(
                    max_examples=examples * times,
                    stateful_step_count=steps,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            client.flushall()
