"""These tests are asked for by name, so where there is no GPU they fail, all at once."""

from __future__ import annotations

import pytest

from tests.gpu.at_hand import fault


@pytest.fixture(scope="session", autouse=True)
def a_gpu() -> None:
    if why := fault():
        pytest.exit(why, returncode=1)
