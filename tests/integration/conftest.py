"""What the tests of the API share. Each module has an `api` of its own, with the settings that it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.api_stack import Api, Hands


@pytest.fixture
async def hands(api: Api) -> AsyncIterator[Hands]:
    """A worker's hands beside the module's API."""
    found = Hands.on(api.parts.settings)
    yield found
    await found.client.aclose()
