"""OpenAI's own SDK, the newest and the last 1.x, against a real API with keys on and a real worker."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Ask

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


@pytest.mark.parametrize(("of", "version"), [("main", "3."), ("openai1", "1.109.1")])
def test_embeddings_and_models(ask: Ask, of: str, version: str) -> None:
    found = ask(of, "ask_openai.py")
    assert found.pop("version").startswith(version)
    assert found.pop("same") < 1e-6
    assert found.pop("by_ids") < 1e-6
    assert found == {
        "one": [1, 384, "bert", 3],
        "indices": [0, 1],
        "three": 3,
        "no_ids": ["BadRequestError", "invalid_value", "input", True],
        "empty": ["BadRequestError", "invalid_value", "input", True],
        "dimensions": ["BadRequestError", "invalid_value", "dimensions", True],
        "model": ["NotFoundError", "model_not_found", None, True],
        "models": ["bert", "by-ids", "cnn", "org/echo"],
        "model_of_org": "org/echo",
        "no_model": "model_not_found",
        "no_key": "invalid_api_key",
    }
