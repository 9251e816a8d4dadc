"""Retry-After of a refusal: what the measured speed of the queue makes of what waits."""

from __future__ import annotations

import pytest

from api.backlog import refused
from api.errors import STATUS
from shared import errors
from shared.catalog import Ref
from shared.scripts import Submitted

REF = Ref("m", "1")


@pytest.mark.parametrize(("wait_ms", "told"), [(0, 1), (900, 1), (1001, 2), (42_000, 42), (900_000, 60)])
def test_a_full_queue_says_when_it_is_done(wait_ms: int, told: int) -> None:
    error = refused(REF, Submitted("full", jobs=10, size=99, wait_ms=wait_ms), 1000, 10)
    assert isinstance(error, errors.QueueFull)
    assert error.retry_after_s == told
    assert "m@1" in error.message


@pytest.mark.parametrize(("wait_ms", "deadline_ms", "told"), [(9_000, 5_000, 4), (5_001, 5_000, 1), (900_000, 1, 60)])
def test_a_deadline_that_cannot_be_met_says_when_it_could(wait_ms: int, deadline_ms: int, told: int) -> None:
    error = refused(REF, Submitted("late", wait_ms=wait_ms), deadline_ms, 10)
    assert isinstance(error, errors.DeadlineImpossible)
    assert error.retry_after_s == told


def test_every_code_has_a_status() -> None:
    codes = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ServiceError) and kind is not errors.ConfigError
    }
    assert codes <= STATUS.keys()
