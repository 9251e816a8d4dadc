"""Retry-After of a full queue: what waits, divided by what ends a second."""

from __future__ import annotations

import pytest

from api.backlog import Backlog
from api.errors import STATUS
from shared import errors


def test_the_rate_is_of_the_recent_past() -> None:
    backlog = Backlog(None)  # type: ignore[arg-type]  # the rate is pure
    assert backlog._update("a", 1000, 0.0) == 0.0, "nothing is known yet"
    assert backlog._update("a", 1010, 0.5) == 0.0, "too early to say"
    assert backlog._update("a", 1040, 2.0) == pytest.approx(20.0)
    assert backlog._update("a", 1100, 10.0) == pytest.approx(10.0)
    assert backlog._update("a", 1100, 20.0) == 0.0, "since the last window nothing has ended"
    assert backlog._update("b", 5, 20.0) == 0.0


def test_every_code_has_a_status() -> None:
    codes = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ServiceError) and kind is not errors.ConfigError
    }
    assert codes <= STATUS.keys()
